"""The scores of hidden rows and their tables; it reads stored probabilities and imports nothing of fedlas.

    python -m benchmarks.calibration_scores                      # every run in the cache folder, every section
    python -m benchmarks.calibration_scores --section untouched

A base is a folder `SETTING-SEED` with `hidden.npz` (`targets` (N,)) and `peers.npz` (`uploaded`, `temperature`,
`probmetrics`, `netcal`: probabilities (N, K)). A run is that folder or one beside it with `served.npz` (`served`) and
`run.json` (`setting`, `seed`, `section`, `verdict`, `served`, `significant`). The scores of a run go into its folder,
`scores.json`.

A run is *better* or *worse* where the 95 % interval of the mean paired difference excludes zero (percentile bootstrap
of rows, 2,000 resamples); where a section has a margin, the tables ask for more than that, too.
*Harm* is an NLL more than 1 % above that of the uploaded model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration_tables import PROPER, RIVALS, SECTIONS, report

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Json = dict[str, Any]
RESAMPLES = 2000
BINS = 15
_TINY = 1e-12  # 0 has no logarithm


def row_scores(probs: Floats, targets: Integers, kind: str) -> Floats:
    """Per row (N,): −log p of the true class, or the squared error summed over classes (0 to 2)."""
    true = probs[np.arange(len(targets)), targets]
    if kind == "nll":
        return np.asarray(-np.log(np.clip(true, _TINY, None)))
    return np.asarray((probs**2).sum(axis=1) - 2 * true + 1)


def interval(differences: Floats, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of (N,) paired differences with its 95 % bootstrap interval."""
    means = [row @ differences / len(differences) for row in _resamples(len(differences), seed)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


@lru_cache(maxsize=2)
def _resamples(size: int, seed: int) -> NDArray[np.int16]:
    """How often each of so many units is drawn, resample by resample; the same for all that is compared on them."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(size, size=size) for _ in range(RESAMPLES))
    return np.array([np.bincount(drawn, minlength=size) for drawn in draws], np.int16)


def outcome(low: float, high: float) -> str:
    """`better`, `same` or `worse` of an interval of served minus rival."""
    return "better" if high < 0 else "worse" if low > 0 else "same"


def ece(confidences: Floats, right: NDArray[np.bool_]) -> float:
    """Top-label expected calibration error, 15 bins (lo, hi] of equal width, 0 in the first."""
    at = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(at, confidences - right, minlength=BINS)).sum() / len(confidences))


def signed_gap(probs: Floats, targets: Integers) -> Json:
    """Mean confidence, the gap to the accuracy, and the variance over rows of confidence minus right."""
    confidences = probs.max(axis=1)
    differences = confidences - (probs.argmax(axis=1) == targets)
    found = {"confidence": confidences.mean(), "gap": differences.mean(), "gap_variance": differences.var()}
    return {name: round(float(value), 6) for name, value in found.items()}


def scores(probs: Floats, targets: Integers) -> Json:
    """Accuracy, NLL, Brier, ECE and the signed gap."""
    confidences, right = probs.max(axis=1), probs.argmax(axis=1) == targets
    return {
        "accuracy": round(float(right.mean()), 5),
        **{kind: round(float(row_scores(probs, targets, kind).mean()), 6) for kind in PROPER},
        "ece": round(ece(confidences, right), 5),
        **signed_gap(probs, targets),
    }


def read_run(folder: Path, section: str | None = None) -> Json | None:
    """The scored run of a folder, or None where a stage is missing or it is of another section."""
    if not all((folder / name).exists() for name in ("served.npz", "run.json")):
        return None
    told = json.loads((folder / "run.json").read_text())
    base = folder.with_name(f"{told['setting']}-{told['seed']}")
    if section not in (None, told["section"]) or not (base / "peers.npz").exists():
        return None
    targets = np.load(base / "hidden.npz")["targets"]
    probs = {name: _checked(values, targets) for name, values in _probabilities(folder, base).items()}
    return {
        **told,
        "hidden_rows": len(targets),
        "calibration_rows": len(np.load(base / "logits.npz")["targets"]),
        "scores": {name: scores(values, targets) for name, values in probs.items()},
        "served_minus": {
            rival: {kind: _against(probs["served"], probs[rival], targets, kind) for kind in PROPER}
            for rival in ("uploaded", *RIVALS)
            if rival in probs
        },
    }


def _probabilities(folder: Path, base: Path) -> dict[str, NDArray[Any]]:
    """The probabilities of the hidden rows, by the name of who answers them."""
    probs = dict(np.load(base / "peers.npz").items()) | {"served": np.load(folder / "served.npz")["served"]}
    if folder != base and (base / "served.npz").exists():
        probs["post_hoc"] = np.load(base / "served.npz")["served"]
    return probs


def _checked(probs: NDArray[Any], targets: Integers) -> Floats:
    """Probabilities (N, K) in double precision that sum to one; anything else is a mistake of the benchmark."""
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or len(probs) != len(targets) or not np.isfinite(probs).all():
        raise ValueError(f"expected finite probabilities ({len(targets)}, K), got {probs.shape}")
    if np.abs(probs.sum(axis=1) - 1).max() > 1e-3 or probs.min() < 0:
        raise ValueError("rows of probabilities must sum to one and be at least zero")
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


def _against(served: Floats, rival: Floats, targets: Integers, kind: str) -> Json:
    value, low, high = interval(row_scores(served, targets, kind) - row_scores(rival, targets, kind))
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6), "outcome": outcome(low, high)}


def _written(run: Json) -> str:
    """JSON with every innermost object on one line."""
    text = json.dumps(run, indent=1, ensure_ascii=False)
    return re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), text) + "\n"


def cache_folder() -> Path:
    """Where the runs lie: `FEDLAS_BENCHMARKS_CACHE`, or under the user's cache."""
    chosen = os.environ.get("FEDLAS_BENCHMARKS_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "fedlas-benchmarks") / "calibration"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=list(SECTIONS), help="only the runs of one section")
    parser.add_argument("--stored", action="store_true", help="tables of the last scores, scoring nothing")
    options = parser.parse_args()
    if not options.stored:
        for folder in sorted(cache_folder().glob("*-*")):
            if (run := read_run(folder, options.section)) is not None:
                (folder / "scores.json").write_text(_written(run))
    runs = [json.loads(path.read_text()) for path in sorted(cache_folder().glob("*-*/scores.json"))]
    print(report([run for run in runs if options.section in (None, run["section"])]))


if __name__ == "__main__":
    main()
