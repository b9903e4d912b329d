"""Binning of confidences, the same for all calibration errors: every row falls in exactly one bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, Ints, check_count, check_rows


def equal_width_bins(values: Floats, num_bins: int) -> Ints:
    """Bin numbers 0..num_bins−1 of values in [0, 1], any shape: bins (lo, hi], and 0 lies in the first.

    >>> equal_width_bins(np.array([0.0, 0.5, 0.51, 1.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    inner = np.linspace(0, 1, num_bins + 1)[1:-1]
    bins: Ints = np.searchsorted(inner, values, side="left").astype(np.int64, copy=False)
    return bins


def equal_mass_bins(values: Floats, num_bins: int) -> Ints:
    """Bin numbers 0..num_bins−1 of values (N,): as equal in rows as equal values, which stay together, allow.

    A run of equal values goes where its middle rank belongs, so some bins may stay empty.

    >>> equal_mass_bins(np.array([0.9, 0.1, 0.9, 0.4]), 2).tolist()
    [1, 0, 1, 0]
    """
    _, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(sizes) - sizes / 2
    bins: Ints = (middle * num_bins // len(values)).astype(np.int64)[which]
    return bins


def top_label(probs: Floats, targets: Ints) -> tuple[Floats, Floats]:
    """Confidences (N,) and whether the most probable class (the first among equals) is right, 0 or 1 (N,)."""
    predicted = probs.argmax(axis=1)
    return probs[np.arange(len(probs)), predicted], (predicted == targets).astype(np.float64)


@dataclass(frozen=True)
class ReliabilityCurve:
    """The data of a reliability diagram: B bins (edges[b], edges[b + 1]], NaN where a bin is empty."""

    edges: Floats
    counts: Ints
    mean_confidence: Floats
    accuracy: Floats


def reliability_curve(probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 15) -> ReliabilityCurve:
    """Mean confidence and accuracy of the top label in `num_bins` bins of equal width.

    Raises:
        ValueError: see `fedlas.metrics.accuracy`.
    """
    num_bins = check_count("num_bins", num_bins)
    confidences, correct = top_label(*check_rows(probs, targets))
    bins = equal_width_bins(confidences, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    filled = np.where(counts > 0, counts, np.nan)
    return ReliabilityCurve(
        edges=np.linspace(0, 1, num_bins + 1),
        counts=counts,
        mean_confidence=np.bincount(bins, confidences, minlength=num_bins) / filled,
        accuracy=np.bincount(bins, correct, minlength=num_bins) / filled,
    )
