"""What the guarantees promise and what became of it on the test rows, as a table; it sets no threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlas.guarantees import Guarantees, Unreachable
from fedlas.metrics.bootstrap import Estimate
from fedlas.metrics.subgroups import share

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ERROR_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)
COVERAGES = (0.8, 0.9, 0.95, 0.99)


def promises(
    guarantees: Mapping[str, Any] | None, probs: Floats, targets: Ints, groups: Ints | None, confidence_level: float
) -> dict[str, Any] | None:
    """Threshold, share answered and error found for each level; sets and coverage for each coverage; None without."""
    if not guarantees:
        return None
    fitted = Guarantees.from_dict(guarantees)
    return {
        "num_rows": fitted.num_rows,
        "num_groups": fitted.num_groups,
        "delta": fitted.delta,
        "max_error": [_error_row(fitted, e, probs, targets, groups, confidence_level) for e in ERROR_LEVELS],
        "coverage": [_coverage_row(fitted, c, probs, targets, groups, confidence_level) for c in COVERAGES],
    }


def _error_row(
    fitted: Guarantees, level: float, probs: Floats, targets: Ints, groups: Ints | None, confidence_level: float
) -> dict[str, Any]:
    try:
        threshold = fitted.threshold_for(level)
    except Unreachable as reason:
        return {"level": level, "threshold": None, "reachable": reason.reachable, "answered": 0.0, "error_rate": None}
    # What is served compares float32 confidences with the threshold.
    kept = probs.max(axis=1).astype(np.float32).astype(np.float64) >= threshold
    wrong = (probs.argmax(axis=1) != targets).astype(np.float64)
    found = share(wrong[kept], None if groups is None else groups[kept], confidence_level)
    return {
        "level": level,
        "threshold": threshold,
        "reachable": None,
        "answered": float(kept.mean()),
        "error_rate": _as_dict(found),
    }


def _coverage_row(
    fitted: Guarantees, level: float, probs: Floats, targets: Ints, groups: Ints | None, confidence_level: float
) -> dict[str, Any]:
    try:
        sets = fitted.prediction_sets(probs, level)
    except Unreachable as reason:
        return {"level": level, "reachable": reason.reachable, "mean_size": None, "covered": None}
    covered = sets[np.arange(len(targets)), targets].astype(np.float64)
    return {
        "level": level,
        "reachable": None,
        "mean_size": float(sets.sum(axis=1).mean()),
        "covered": _as_dict(share(covered, groups, confidence_level)),
    }


def _as_dict(estimate: Estimate | None) -> dict[str, float] | None:
    return estimate.as_dict() if estimate else None
