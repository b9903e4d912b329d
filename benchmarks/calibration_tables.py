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
    "unseen-auto": "bases trained on other rows, fine-tuned",
    "scores": "29 settings by their scores, without features",
    "forests": "forests, boosting, …",
    "untouched": "ten untouched tables",
    "untouched-auto": "ten untouched tables, fine-tuned",
    "new-tables": "twenty new tables",
    "new-tables-auto": "twenty new tables, fine-tuned",
    "large": "resnet18 and MiniLM",
    "large-auto": "resnet18 and MiniLM, fine-tuned",
}
RIVALS = {
    "temperature": "base + TS",
    "probmetrics": "probmetrics, best",
    "netcal": "netcal, best",
    "refit_probmetrics": "probmetrics, best, on the same refit",
    "refit_netcal": "netcal, best, on the same refit",
    "post_hoc": "the job that trains nothing",
}
POLICIES = {
    "A": "lowest out of fold at cost 1, no veto",
    "B": "lowest out of fold, no veto",
    "trained": "the refit alone",
    "average": "the average alone",
}
PROPER = ("brier", "nll")
#: Sections in which a mean difference of at most this counts as the same, whatever its interval.
MARGINS = {name: {"brier": 2e-4, "nll": 5e-4} for name in ("new-tables", "new-tables-auto")}
HARM = 1.01  # served NLL over uploaded NLL
RATIO = 1.5  # ECE over its noise floor
NEGLIGIBLE = 1e-4  # counted all the same, and shown apart
_ALWAYS = ("temperature", "probmetrics", "netcal")  # rivals of every run
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


def policies_table(runs: Sequence[Json]) -> str:
    """The worth of single finalists, and of the choices that no test row vetoes, had they been served."""
    lines = [f"| Brier, NLL against | runs | {' | '.join(RIVALS.values())} |", "|---|---|" + "---|" * len(RIVALS)]
    for section, title in SECTIONS.items():
        for policy, name in POLICIES.items():
            found = [run.get("finalists_minus", {}) for run in runs if run["section"] == section]
            mine = [each[policy] for each in found if policy in each]
            if mine:
                cells = [_outcomes([each[rival] for each in mine if rival in each]) for rival in RIVALS]
                lines.append(f"| {title}: {name} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _outcomes(found: Sequence[Json]) -> str:
    return ", ".join(_tally([each[kind]["outcome"] for each in found]) for kind in PROPER) if found else ""


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


def ece_table(runs: Sequence[Json]) -> str:
    """Mean ECE of the served model against its floor, setting by setting, and the differences to the rivals."""
    heads = ["setting", "uploaded Brier, NLL", *(f"ΔBrier, ΔNLL: {RIVALS[name]}" for name in _ALWAYS)]
    heads += ["accuracy", "ECE % uploaded, TS, served", "floor %", "ratio"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, mine in _by_setting(runs).items():
        mean, floor, ratio = _calibrated(mine)
        uploaded = [f"{np.mean([run['scores']['uploaded'][kind] for run in mine]):.3f}" for kind in PROPER]
        cells = [f"{name} ({len(mine)})", ", ".join(uploaded), *(_differences(mine, rival) for rival in _ALWAYS)]
        cells.append(f"{100 * np.mean([_gain(run) for run in mine]):+.2f}")
        eces = [np.mean([run["scores"][p]["ece"] for run in mine]) for p in ("uploaded", "temperature")]
        cells += [", ".join(f"{100 * value:.2f}" for value in (*eces, mean)), f"{100 * floor:.2f}"]
        cells.append(f"{ratio:.2f}{'' if ratio <= RATIO else ' ✗'}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ece_shares(runs: Sequence[Json]) -> str:
    """In how many settings of each section the mean ECE of the served model is near its noise floor."""
    lines = [f"| ECE at most {RATIO} times its noise floor | settings |", "|---|---|"]
    for section, title in SECTIONS.items():
        settings = _by_setting([run for run in runs if run["section"] == section])
        near = [_calibrated(mine)[2] <= RATIO for mine in settings.values()]
        if near:
            lines.append(f"| {title} | {sum(near)} of {len(near)} ({100 * np.mean(near):.0f} %) |")
    return "\n".join(lines)


def _calibrated(runs: Sequence[Json]) -> tuple[float, float, float]:
    """Mean over seeds of the served model's ECE and of its floor, and their ratio."""
    mean, floor = (float(np.mean([run["scores"]["served"][key] for run in runs])) for key in ("ece", "ece_floor"))
    return mean, floor, mean / max(floor, 1e-9)


def _differences(runs: Sequence[Json], rival: str) -> str:
    """Mean differences over seeds, each with better/same/worse of its runs."""
    found = {kind: [run["served_minus"][rival][kind] for run in runs] for kind in PROPER}
    return ", ".join(
        f"{np.mean([f['value'] for f in found[k]]):+.4f} {_tally([f['outcome'] for f in found[k]])}" for k in PROPER
    )


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

    def told(minus: Json) -> Json:
        return {
            rival: {k: f if abs(f["value"]) > margins[k] else f | {"outcome": "same"} for k, f in found.items()}
            for rival, found in minus.items()
        }

    finalists = {name: told(minus) for name, minus in run["finalists_minus"].items()}
    return run | {"served_minus": told(run["served_minus"]), "finalists_minus": finalists}


def report(runs: Sequence[Json]) -> str:
    """All tables in Markdown."""
    tables = (counts_table, policies_table, accuracy_table, harm_table, jobs_table, gap_table, ece_shares, worse_table)
    found = [beyond_margin(run) for run in runs]
    return "\n\n".join(table(found) for table in (*tables, ece_table))
