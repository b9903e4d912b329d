"""Validation of the arguments of metrics; messages name the row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUM_TOLERANCE = 1e-3


def check_rows(probs: ArrayLike, targets: ArrayLike) -> tuple[Floats, Ints]:
    """Probabilities (N, K) float64 and class indices (N,) int64.

    Raises:
        ValueError: shapes do not fit, N = 0, K < 2, a probability is NaN or negative, a row does not sum to 1 within
            `SUM_TOLERANCE`, or a target is no class; the message names the row.
    """
    rows = check_probs(probs)
    labels = _array(targets)
    if labels.shape != rows.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"targets must be {len(rows)} integer class indices, got {labels.shape} of type {labels.dtype}"
        )
    _refuse((labels < 0) | (labels >= rows.shape[1]), labels, f"targets must lie in 0..{rows.shape[1] - 1}")
    return rows, labels.astype(np.int64)


def check_probs(probs: ArrayLike) -> Floats:
    raw = _array(probs)
    if raw.ndim != 2 or raw.shape[0] == 0 or raw.shape[1] < 2:
        raise ValueError(f"probs must be (N, K) with N >= 1 and K >= 2, got {raw.shape}")
    rows: Floats = raw.astype(np.float64, copy=False)
    sums = rows.sum(axis=1)
    _refuse(~np.isfinite(sums), sums, "probs must be finite")
    lowest = rows.min(axis=1)
    _refuse(lowest < 0, lowest, "probs must not be negative")
    _refuse(np.abs(sums - 1) > SUM_TOLERANCE, sums, f"probs must sum to 1 (within {SUM_TOLERANCE:g})")
    return rows


def check_groups(groups: ArrayLike | None, num_rows: int) -> Ints | None:
    """Group numbers 0..G−1 (N,) for any labels (N,) of groups."""
    if groups is None:
        return None
    names = _array(groups)
    if names.shape != (num_rows,):
        raise ValueError(f"groups must be ({num_rows},), one for each row, got {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def check_count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def check_level(confidence_level: float) -> float:
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must lie in (0, 1), got {confidence_level!r}")
    return float(confidence_level)


def _array(values: Any) -> NDArray[Any]:
    # A tensor that still carries a gradient does not turn into an array by itself.
    return np.asarray(values.detach() if hasattr(values, "detach") else values)


def _refuse(bad: NDArray[np.bool_], values: NDArray[Any], expectation: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{expectation}, got {values[row]} in row {row} of {len(values)}")
