"""Binned calibration errors: ECE, adaptive ECE, classwise ECE.

All are biased upward: a perfectly calibrated classifier has an ECE of about 0.02 on 1,000 rows. `noise_floor` computes
the range to compare them with. Every row falls in exactly one bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, Ints, check_count, check_rows


def equal_width_bins(values: Floats, num_bins: int) -> Ints:
    """Bin numbers 0..num_bins−1 of values in [0, 1], any shape: bins (lo, hi], and 0 lies in the first.

    >>> equal_width_bins(np.array([0.0, 0.5, 0.51, 1.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    inner = np.linspace(0, 1, num_bins + 1)[1:-1]
    return np.searchsorted(inner, values, side="left").astype(np.int64, copy=False)


def equal_mass_bins(values: Floats, num_bins: int) -> Ints:
    """Bin numbers 0..num_bins−1 of values (N,): as equal in rows as equal values, which stay together, allow.

    A run of equal values goes where its middle rank belongs, so some bins may stay empty.

    >>> equal_mass_bins(np.array([0.9, 0.1, 0.9, 0.4]), 2).tolist()
    [1, 0, 1, 0]
    """
    _, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(sizes) - sizes / 2) * num_bins // len(values)).astype(np.int64)[which]


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


class SignedError(NamedTuple):
    """The two parts that add up to the ECE."""

    over_confidence: float
    under_confidence: float


def ece(probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 15) -> float:
    """Σ_b n_b/N·|confidence_b − accuracy_b| of the top label over bins of equal width (Guo et al. 2017, 1706.04599).

    Bins are (lo, hi] with 0 in the first. Raises a ValueError as `accuracy` does.

    >>> round(ece([[0.8, 0.2], [0.8, 0.2]], [0, 1]), 6)
    0.3
    """
    return sum(signed_ece(probs, targets, num_bins=num_bins))


def signed_ece(probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 15) -> SignedError:
    """The ECE split into bins whose confidence is above their accuracy and bins where it is below."""
    num_bins = check_count("num_bins", num_bins)
    confidences, correct = top_label(*check_rows(probs, targets))
    gaps = _gaps(equal_width_bins(confidences, num_bins), confidences - correct)
    return SignedError(float(gaps.clip(min=0).sum()), float((-gaps).clip(min=0).sum()))


def adaptive_ece(probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 15) -> float:
    """ECE over bins of equal mass (Nguyen & O'Connor 2015); equal confidences stay together, and no row is lost.

    Raises a ValueError as `accuracy` does.

    >>> adaptive_ece([[1.0, 0.0], [1.0, 0.0]], [1, 1])
    1.0
    """
    num_bins = check_count("num_bins", num_bins)
    confidences, correct = top_label(*check_rows(probs, targets))
    return float(np.abs(_gaps(equal_mass_bins(confidences, num_bins), confidences - correct)).sum())


def classwise_ece(probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 15) -> float:
    """Mean over all K classes of the ECE of p[k] against 1[y = k] (Kull et al. 2019, arXiv 1910.12656).

    Raises a ValueError as `accuracy` does.

    >>> round(classwise_ece([[0.8, 0.2], [0.8, 0.2]], [0, 1]), 6)
    0.3
    """
    num_bins = check_count("num_bins", num_bins)
    rows, labels = check_rows(probs, targets)
    cells = class_cells(rows, num_bins)
    excess = np.bincount(cells.ravel(), rows.ravel())
    hits = np.bincount(cells[np.arange(len(rows)), labels], minlength=len(excess))
    return float(np.abs(excess - hits).sum() / rows.size)


def class_cells(probs: Floats, num_bins: int) -> Ints:
    """The cell k·num_bins + bin of every probability (N, K): each class has bins of its own."""
    return equal_width_bins(probs, num_bins) + num_bins * np.arange(probs.shape[1])


def _gaps(bins: Ints, excess: Floats) -> Floats:
    """n_b/N·(confidence_b − accuracy_b) for every bin."""
    return np.bincount(bins, excess) / len(bins)
