"""Markdown tables of finished runs, and the counts that the goals name; it runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.runs import BASE, NETCAL, POLICIES, PROBMETRICS, RIVALS, SERVED, SERVES, TRAINED
from benchmarks.settings import SETTINGS

Json = dict[str, Any]
_NORMAL = 1.96
_T_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % of Student's t with one seed less
METHOD = (
    "Differences are served minus rival, so negative is better. A mean over S seeds has a 95 % interval of "
    "±1.96·√(u² + s²/S): u is the mean over the seeds of the rows' standard error (paired bootstrap, by groups where "
    "there are groups), as if all seeds had the same test rows (some do), and s the standard deviation between seeds. "
    "The t-interval uses the seeds alone. The served row is slightly flattered: the gate chose among three models on "
    "the test rows that score it, as a job does."
)


@dataclass(frozen=True)
class Mean:
    """A mean difference over seeds with its interval, and the interval that the seeds alone give (NaN for one)."""

    value: float
    low: float
    high: float
    seeds_low: float
    seeds_high: float

    @property
    def outcome(self) -> str:
        """`better`, `worse` or `same`, by whether the interval excludes zero."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "same"


def combine(estimates: Sequence[Json]) -> Mean:
    """The mean of `{value, low, high}` over seeds, as `METHOD` says."""
    values = np.array([estimate["value"] for estimate in estimates])
    errors = np.array([estimate["high"] - estimate["low"] for estimate in estimates]) / (2 * _NORMAL)
    between = float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    half = _NORMAL * float(np.hypot(errors.mean(), between))
    wide = _T_QUANTILES.get(len(values), np.nan) * between
    mean = float(values.mean())
    return Mean(mean, mean - half, mean + half, mean - wide, mean + wide)


def policy_table(name: str, runs: Sequence[Json]) -> str:
    """Means over seeds of every policy, with the range of the seeds."""
    lines = [f"### {SETTINGS[name].title}", ""]
    lines += ["| policy | accuracy % | ECE %, of calibrated models | NLL | Brier | AURC |", "|---|---|---|---|---|---|"]
    for policy in POLICIES:
        tests = [run["test"][policy] for run in runs if policy in run["test"]]
        if not tests:
            continue
        label = policy if len(tests) == len(runs) else f"{policy} ({len(tests)} of {len(runs)} seeds)"
        floor = f", {100 * np.mean([t['ece_floor'] for t in tests]):.2f}"
        cells = [_spread([100 * t["accuracy"] for t in tests], 1), _spread([100 * t["ece"] for t in tests], 2) + floor]
        cells += [_spread([t[key] for t in tests], digits) for key, digits in (("nll", 3), ("brier", 3), ("aurc", 4))]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += [
        "",
        "| seed | verdict | served | trained finalist | probmetrics | netcal | race s |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_seed_line(run) for run in runs)])


def _seed_line(run: Json) -> str:
    chosen = run["chosen"]
    failed = f" ({', '.join(run['guards_failed'])})" if run["guards_failed"] else ""
    cells = [
        run["verdict"] + failed,
        chosen.get(SERVES[run["finalist"]], "as uploaded"),
        chosen.get(TRAINED, "none"),
        chosen[PROBMETRICS],
        chosen[NETCAL],
        f"{run['seconds']['race']:.0f}",
    ]
    return f"| {run['seed']} | {' | '.join(cells)} |"


def difference_table(found: Mapping[str, Sequence[Json]], kind: str) -> str:
    """One line per setting: the served model's mean difference to each rival in one proper score."""
    lines = [f"| Δ{kind}, mean over seeds | {' | '.join(RIVALS)} | t-interval against {RIVALS[0]} |"]
    lines.append("|---|" + "---|" * (len(RIVALS) + 1))
    for name, runs in found.items():
        means = [combine([run["served_minus"][rival][kind] for run in runs]) for rival in RIVALS]
        cells = [f"{m.value:+.4f} ({m.low:+.4f} to {m.high:+.4f}) {_MARKS[m.outcome]}" for m in means]
        cells.append(f"{means[0].seeds_low:+.4f} to {means[0].seeds_high:+.4f}" if len(runs) > 1 else "one seed")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


_MARKS = {"better": "✓", "worse": "✗", "same": "="}


def goals(found: Mapping[str, Sequence[Json]]) -> str:
    """The counts that the goals name: better, same and worse settings, accuracy lost, ECE against its floor."""
    lines = ["| served against | score | better | same | worse | worse on |", "|---|---|---|---|---|---|"]
    for rival in RIVALS:
        for kind in ("brier", "nll"):
            outcomes = {
                name: combine([run["served_minus"][rival][kind] for run in runs]).outcome
                for name, runs in found.items()
            }
            counts = [str(list(outcomes.values()).count(outcome)) for outcome in ("better", "same", "worse")]
            worse = ", ".join(name for name, outcome in outcomes.items() if outcome == "worse") or "–"
            lines.append(f"| {rival} | {kind} | {' | '.join(counts)} | {worse} |")
    lines += [
        "",
        "| setting | accuracy served − base, points | ECE % served | floor % | ratio |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_goal_line(name, runs) for name, runs in found.items())])


def _goal_line(name: str, runs: Sequence[Json]) -> str:
    served, base = ([run["test"][policy] for run in runs] for policy in (SERVED, BASE))
    gained = 100 * np.mean([s["accuracy"] - b["accuracy"] for s, b in zip(served, base, strict=True)])
    ece, floor = (100 * float(np.mean([s[key] for s in served])) for key in ("ece", "ece_floor"))
    marks = [" ✗" if gained < -0.5 else "", " ✗" if ece > 1.5 * floor else ""]
    return f"| {name} | {gained:+.2f}{marks[0]} | {ece:.2f} | {floor:.2f} | {ece / max(floor, 1e-9):.2f}{marks[1]} |"


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else mean
