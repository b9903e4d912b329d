"""The scores of hidden rows and their tables; it reads stored probabilities and imports nothing of fedlas.

    python -m benchmarks.calibration_scores                      # every run in the cache folder, every section
    python -m benchmarks.calibration_scores --section untouched

A run is a folder `SETTING-SEED` with `hidden.npz` (`targets` (N,), `groups` (N,) where rows belong together),
`peers.npz` (`uploaded`, `temperature`, `probmetrics`, `netcal`: probabilities (N, K)), `served.npz` (`served`) and
`run.json` (`setting`, `seed`, `section`, `verdict`, `served`, `shown`). Its scores go to
`benchmarks/results/calibration`.

A run is *better* or *worse* where the 95 % interval of the mean paired difference excludes zero (percentile bootstrap
of rows, or of whole groups, 2,000 resamples). *Harm* is an NLL more than 1 % above that of the uploaded model.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Json = dict[str, Any]

RESULTS = Path(__file__).parent / "results" / "calibration"
SECTIONS = {
    "networks": "29 settings of networks",
    "scores": "the same by their scores, without features",
    "forests": "forests, boosting, …",
    "untouched": "ten untouched tables",
}
RIVALS = {"temperature": "base + TS", "probmetrics": "probmetrics, best", "netcal": "netcal, best"}
PROPER = ("brier", "nll")
RESAMPLES, BINS, FLOOR_DRAWS = 2000, 15, 300
HARM = 1.01  # served NLL over uploaded NLL
RATIO = 1.5  # ECE over its noise floor
NEGLIGIBLE = 1e-4  # counted all the same, and told apart
_TINY = 1e-12  # 0 has no logarithm


def row_scores(probs: Floats, targets: Integers, kind: str) -> Floats:
    """Per row (N,): −log p of the true class, or the squared error summed over classes (0 to 2)."""
    true = probs[np.arange(len(targets)), targets]
    if kind == "nll":
        return np.asarray(-np.log(np.clip(true, _TINY, None)))
    return np.asarray((probs**2).sum(axis=1) - 2 * true + 1)


def interval(differences: Floats, groups: Integers | None = None, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of (N,) paired differences with its 95 % bootstrap interval; whole groups are drawn where there are any."""
    rng = np.random.default_rng(seed)
    sums: Floats = differences
    sizes: Floats = np.ones(len(differences))
    if groups is not None:
        _, unit = np.unique(groups, return_inverse=True)
        sums, sizes = (np.bincount(unit, each).astype(np.float64) for each in (differences, sizes))
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = np.bincount(rng.integers(len(sums), size=len(sums)), minlength=len(sums))
        means[i] = drawn @ sums / (drawn @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def outcome(low: float, high: float) -> str:
    """`better`, `same` or `worse` of an interval of served minus rival."""
    return "better" if high < 0 else "worse" if low > 0 else "same"


def ece(confidences: Floats, right: NDArray[np.bool_]) -> float:
    """Top-label expected calibration error, 15 bins (lo, hi] of equal width, 0 in the first."""
    at = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(at, confidences - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def noise_floor(confidences: Floats, *, seed: int = 0) -> float:
    """Mean ECE of a perfectly calibrated model with these confidences: answers are right as often as they say."""
    rng = np.random.default_rng(seed)
    draws = [ece(confidences, rng.random(len(confidences)) < confidences) for _ in range(FLOOR_DRAWS)]
    return float(np.mean(draws))


def scores(probs: Floats, targets: Integers) -> Json:
    """Accuracy, NLL, Brier, ECE and the floor of ECE."""
    confidences, right = probs.max(axis=1), probs.argmax(axis=1) == targets
    return {
        "accuracy": round(float(right.mean()), 5),
        **{kind: round(float(row_scores(probs, targets, kind).mean()), 6) for kind in PROPER},
        "ece": round(ece(confidences, right), 5),
        "ece_floor": round(noise_floor(confidences), 5),
    }


def read_run(folder: Path) -> Json | None:
    """The scored run of a folder, or None where a stage is missing."""
    if not all((folder / name).exists() for name in ("hidden.npz", "peers.npz", "served.npz", "run.json")):
        return None
    hidden = np.load(folder / "hidden.npz")
    targets, groups = hidden["targets"], hidden.get("groups")
    probs = {name: _checked(values, targets) for name, values in np.load(folder / "peers.npz").items()}
    probs["served"] = _checked(np.load(folder / "served.npz")["served"], targets)
    against = {
        rival: {kind: _against(probs["served"], probs[rival], targets, groups, kind) for kind in PROPER}
        for rival in ("uploaded", *RIVALS)
    }
    return {
        **json.loads((folder / "run.json").read_text()),
        "hidden_rows": len(targets),
        "scores": {name: scores(values, targets) for name, values in probs.items()},
        "served_minus": against,
    }


def _checked(probs: NDArray[Any], targets: Integers) -> Floats:
    """Probabilities (N, K) in double precision that sum to one; anything else is a mistake of the benchmark."""
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or len(probs) != len(targets) or not np.isfinite(probs).all():
        raise ValueError(f"expected finite probabilities ({len(targets)}, K), got {probs.shape}")
    if np.abs(probs.sum(axis=1) - 1).max() > 1e-3 or probs.min() < 0:
        raise ValueError("rows of probabilities must sum to one and be at least zero")
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


def _against(served: Floats, rival: Floats, targets: Integers, groups: Integers | None, kind: str) -> Json:
    value, low, high = interval(row_scores(served, targets, kind) - row_scores(rival, targets, kind), groups)
    found = {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}
    return {**found, "outcome": outcome(low, high)}


def harmed(run: Json, policy: str) -> bool:
    """NLL more than 1 % above that of the uploaded model."""
    return bool(run["scores"][policy]["nll"] > HARM * run["scores"]["uploaded"]["nll"])


def counts_table(runs: Sequence[Json]) -> str:
    """Better/same/worse of every section and rival."""
    heads = ["served against", "runs", "Brier better/same/worse", "NLL better/same/worse", "worse by < 0.0001"]
    lines = [f"| {' | '.join([*heads, 'mean ΔBrier', 'mean ΔNLL'])} |", "|" + "---|" * (len(heads) + 2)]
    for section, title in SECTIONS.items():
        mine = [run for run in runs if run["section"] == section]
        for rival, name in (RIVALS if mine else {}).items():
            found = {kind: [run["served_minus"][rival][kind] for run in mine] for kind in PROPER}
            cells = [_tally([f["outcome"] for f in found[kind]]) for kind in PROPER]
            cells.append(", ".join(str(sum(_hardly_worse(f) for f in found[kind])) for kind in PROPER))
            cells += [f"{np.mean([f['value'] for f in found[kind]]):+.4f}" for kind in PROPER]
            lines.append(f"| {title}: {name} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
            cells = [_share([harmed(run, policy) for run in mine]) for policy in ("served", *RIVALS)]
            cells.append(_share([run["verdict"] == "unchanged" for run in mine]))
            cells.append(_share([bool(run["shown"]) for run in mine]))
            lines.append(f"| {title} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} ({100 * np.mean(flags):.1f} %)"


def ece_table(runs: Sequence[Json]) -> str:
    """Mean ECE of the served model against its floor, setting by setting, and the differences to the rivals."""
    heads = ["setting", "uploaded Brier, NLL", *(f"ΔBrier, ΔNLL: {name}" for name in RIVALS.values())]
    heads += ["ECE % uploaded, TS, served", "floor %", "ratio"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, mine in _by_setting(runs).items():
        mean, floor, ratio = _calibrated(mine)
        uploaded = [f"{np.mean([run['scores']['uploaded'][kind] for run in mine]):.3f}" for kind in PROPER]
        cells = [f"{name} ({len(mine)})", ", ".join(uploaded), *(_differences(mine, rival) for rival in RIVALS)]
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
    cells = [
        f"{np.mean([f['value'] for f in found[k]]):+.4f} {_tally([f['outcome'] for f in found[k]])}" for k in PROPER
    ]
    return ", ".join(cells)


def worse_table(runs: Sequence[Json]) -> str:
    """Every run that is worse than a rival or harmful, with what was served."""
    lines = [
        "| setting, seed | rival | score | difference (95 % interval) | served | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        told = f"| {run['setting']}, {run['seed']}"
        for rival, name in RIVALS.items():
            for kind in PROPER:
                found = run["served_minus"][rival][kind]
                if found["outcome"] == "worse":
                    numbers = f"{found['value']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
                    lines.append(f"{told} | {name} | {kind} | {numbers} | {run['served']} | {run['verdict']} |")
        if harmed(run, "served"):
            ours, theirs = (run["scores"][policy]["nll"] for policy in ("served", "uploaded"))
            lines.append(
                f"{told} | uploaded | harm | {ours:.4f} for {theirs:.4f} | {run['served']} | {run['verdict']} |"
            )
    return "\n".join(lines)


def _by_setting(runs: Sequence[Json]) -> Mapping[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for run in runs:
        found.setdefault(run["setting"] + (", scores only" if run["section"] == "scores" else ""), []).append(run)
    return found


def report(runs: Sequence[Json]) -> str:
    """All tables in Markdown."""
    return "\n\n".join([counts_table(runs), harm_table(runs), ece_shares(runs), worse_table(runs), ece_table(runs)])


def cache_folder() -> Path:
    """Where the runs lie: `FEDLAS_BENCHMARKS_CACHE`, or under the user's cache."""
    chosen = os.environ.get("FEDLAS_BENCHMARKS_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "fedlas-benchmarks") / "calibration"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=list(SECTIONS), help="only the runs of one section")
    parser.add_argument(
        "--stored", action="store_true", help="tables of the scores in benchmarks/results, scoring nothing"
    )
    options = parser.parse_args()
    if not options.stored:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for folder in sorted(cache_folder().glob("*-*")):
            if (run := read_run(folder)) is not None:
                (RESULTS / f"{folder.name}.json").write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    print(report([run for run in runs if options.section in (None, run["section"])]))


if __name__ == "__main__":
    main()
