"""The tables of the calibration benchmark in Markdown; a run is better or worse by `MARGINS`, harm is 1 % of NLL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Json = dict[str, Any]
SECTIONS = {
    "networks": "29 settings of networks",
    "networks-auto": "the same, fine-tuned",
    "scores": "29 settings by their scores, without features",
    "forests": "forests, boosting, …",
    "untouched": "ten untouched tables",
    "untouched-auto": "ten untouched tables, fine-tuned",
    "new-tables": "twenty new tables",
    "new-tables-auto": "twenty new tables, fine-tuned",
}
RIVALS = {
    "temperature": "base + TS",
    "probmetrics": "probmetrics, best",
    "netcal": "netcal, best",
    "post_hoc": "the job that trains nothing",
}
PROPER = ("brier", "nll")
#: Sections in which a mean difference of at most this counts as the same, whatever its interval.
MARGINS = {name: {"brier": 2e-4, "nll": 5e-4} for name in ("new-tables", "new-tables-auto")}
HARM = 1.01  # served NLL over uploaded NLL
NEGLIGIBLE = 1e-4  # counted all the same, and shown apart
_KINDS = {"scores": ", scores only", **{s: ", fine-tuned" for s in SECTIONS if s.endswith("-auto")}}
ACCURACY = -0.005  # mean over the seeds of a setting, served minus uploaded


def harmed(run: Json, policy: str) -> bool:
    """NLL more than 1 % above that of the uploaded model."""
    return bool(run["scores"][policy]["nll"] > HARM * run["scores"]["uploaded"]["nll"])


def counts_table(runs: Sequence[Json]) -> str:
    """Better/same/worse of every section and rival."""
    heads = ["served against", "runs", "Brier better/same/worse", "NLL better/same/worse", "worse by < 0.0001"]
    lines = [f"| {' | '.join([*heads, 'mean ΔBrier', 'mean ΔNLL'])} |", "|" + "---|" * (len(heads) + 2)]
    for section, title in SECTIONS.items():
        mine = [run for run in runs if run["section"] == section]
        for rival, name in RIVALS.items():
            compared = [run["served_minus"][rival] for run in mine if rival in run["served_minus"]]
            if not compared:
                continue
            found = {kind: [each[kind] for each in compared] for kind in PROPER}
            cells = [_tally([f["outcome"] for f in found[kind]]) for kind in PROPER]
            cells.append(", ".join(str(sum(_hardly_worse(f) for f in found[kind])) for kind in PROPER))
            cells += [f"{np.mean([f['value'] for f in found[kind]]):+.4f}" for kind in PROPER]
            lines.append(f"| {title}: {name} | {len(compared)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracy_table(runs: Sequence[Json]) -> str:
    """Accuracy in points, served minus uploaded, mean over the seeds of each setting."""
    lines = ["| accuracy, points | settings | mean | lowest | under -0.5 |", "|---|---|---|---|---|"]
    for section, title in SECTIONS.items():
        found = {name: np.mean([_gain(run) for run in mine]) for name, mine in _by_setting(_of(runs, section)).items()}
        if found:
            lowest, fallen = min(found, key=found.__getitem__), [name for name in found if found[name] < ACCURACY]
            cells = [f"{100 * np.mean(list(found.values())):+.2f}", f"{100 * found[lowest]:+.2f} ({lowest})"]
            lines.append(f"| {title} | {len(found)} | {' | '.join(cells)} | {', '.join(fallen) or 'none'} |")
    return "\n".join(lines)


def _gain(run: Json) -> float:
    return float(run["scores"]["served"]["accuracy"] - run["scores"]["uploaded"]["accuracy"])


def jobs_table(runs: Sequence[Json]) -> str:
    """The models that were served, the verdicts, and the seconds of the jobs."""
    lines = ["| section | runs | served | verdicts | s, median and most | processor s |", "|---|---|---|---|---|---|"]
    for section, title in SECTIONS.items():
        if mine := _of(runs, section):
            counts = [_counts([run[key] for run in mine]) for key in ("served", "verdict")]
            counts += [_seconds([run[key] for run in mine if key in run]) for key in ("job_seconds", "job_cpu_seconds")]
            lines.append(f"| {title} | {len(mine)} | {' | '.join(counts)} |")
    return "\n".join(lines)


def _of(runs: Sequence[Json], section: str) -> list[Json]:
    return [run for run in runs if run["section"] == section]


def _counts(values: Sequence[str]) -> str:
    return ", ".join(f"{value} {count}" for value, count in Counter(values).most_common())


def _seconds(values: Sequence[float]) -> str:
    return f"{np.median(values):.0f}, {max(values):.0f}" if values else ""


def _hardly_worse(found: Json) -> bool:
    """Worse by what two fits of the same temperature differ by."""
    return bool(found["outcome"] == "worse" and found["value"] < NEGLIGIBLE)


def _tally(outcomes: Sequence[str]) -> str:
    return "/".join(str(outcomes.count(kind)) for kind in ("better", "same", "worse"))


def harm_table(runs: Sequence[Json]) -> str:
    """Harm rates beside those of a temperature and of the peers, and what was served and shown."""
    lines = ["| section | runs | harm, served | harm, base + TS | probmetrics | netcal | unchanged | shown |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for section, title in SECTIONS.items():
        mine = [run for run in runs if run["section"] == section]
        if mine:
            policies = ("served", "temperature", "probmetrics", "netcal")
            cells = [_share([harmed(run, policy) for run in mine]) for policy in policies]
            cells.append(_share([run["verdict"] == "unchanged" for run in mine]))
            cells.append(_share([bool(run["significant"]) for run in mine]))
            lines.append(f"| {title} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} ({100 * np.mean(flags):.1f} %)"


def worse_table(runs: Sequence[Json]) -> str:
    """Every run that is worse than a rival or harmful, with what was served."""
    lines = ["| setting, seed | rival | score | difference (95 % interval) | served | verdict |", "|---" * 6 + "|"]
    for run in runs:
        told = f"| {run['setting']}, {run['seed']}"
        for rival, name in RIVALS.items():
            for kind in PROPER if rival in run["served_minus"] else ():
                found = run["served_minus"][rival][kind]
                if found["outcome"] == "worse":
                    numbers = f"{found['value']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
                    lines.append(f"{told} | {name} | {kind} | {numbers} | {run['served']} | {run['verdict']} |")
        if harmed(run, "served"):
            ours, its = (run["scores"][policy]["nll"] for policy in ("served", "uploaded"))
            lines.append(f"{told} | uploaded | harm | {ours:.4f} for {its:.4f} | {run['served']} | {run['verdict']} |")
    return "\n".join(lines)


def _by_setting(runs: Sequence[Json]) -> Mapping[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for run in runs:
        found.setdefault(run["setting"] + _KINDS.get(run["section"], ""), []).append(run)
    return found


def gap_table(runs: Sequence[Json]) -> str:
    """Mean confidence minus accuracy in points by who answers, and runs beyond two errors, 5 % for perfection."""
    lines = ["| section: who answers | runs | mean gap | mean size | beyond two errors | too sure, too unsure |"]
    lines.append("|---|---|---|---|---|---|")
    for section, title in SECTIONS.items():
        for policy in ("uploaded", "temperature", "served"):
            # Runs that were scored before gaps were kept have none.
            found = [(run, run["scores"][policy]) for run in _of(runs, section) if "gap" in run["scores"][policy]]
            if found:
                gaps = np.array([scored["gap"] for _, scored in found])
                errors = np.array([_gap_error(run, scored) for run, scored in found])
                cells = [f"{100 * gaps.mean():+.2f}", f"{100 * np.abs(gaps).mean():.2f}"]
                cells.append(f"{(np.abs(gaps) > 2 * errors).sum()}")
                cells.append(f"{(gaps > 2 * errors).sum()}, {(gaps < -2 * errors).sum()}")
                lines.append(f"| {title}: {policy} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gap_error(run: Json, scored: Json) -> float:
    return float((scored["gap_variance"] * (1 / run["calibration_rows"] + 1 / run["hidden_rows"])) ** 0.5)


def beyond_margin(run: Json) -> Json:
    """The run, with differences within the margin of its section called the same."""
    margins = MARGINS.get(run["section"])
    if margins is None:
        return run

    told = {
        rival: {k: f if abs(f["value"]) > margins[k] else f | {"outcome": "same"} for k, f in found.items()}
        for rival, found in run["served_minus"].items()
    }
    return run | {"served_minus": told}


def report(runs: Sequence[Json]) -> str:
    """All tables in Markdown."""
    tables = (counts_table, accuracy_table, harm_table, jobs_table, gap_table, worse_table)
    found = [beyond_margin(run) for run in runs]
    return "\n\n".join(table(found) for table in tables)
