"""Consistency test of calibration: correctness is redrawn from the model's own confidences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, check_count, check_rows
from fedlas.metrics.binning import top_label
from fedlas.metrics.bootstrap import chunks
from fedlas.metrics.l2_calibration_error import error_bins, top_label_error


@dataclass(frozen=True)
class CalibrationTest:
    """`statistic` of the model, and how often a calibrated model with its confidences reaches it by chance."""

    statistic: float
    p_value: float
    num_draws: int


def calibration_test(
    probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 15, num_draws: int = 1000, seed: int = 0
) -> CalibrationTest:
    """Test that the top label is right as often as the model says, by consistency resampling (Bröcker & Smith 2007).

    The statistic is the debiased squared ℓ2 error. Under the hypothesis a row is right with its own confidence,
    independently of the others, so whether it is can be redrawn R times; p = (1 + #{redrawn >= observed}) / (1 + R),
    which is valid at any N. Where rows belong to groups, they are not independent and p is too small.

    Raises:
        ValueError: as `accuracy`, or an option is out of range.

    >>> calibration_test([[0.9, 0.1]] * 100, [0] * 90 + [1] * 10).p_value > 0.5
    True
    >>> calibration_test([[0.9, 0.1]] * 100, [0] * 60 + [1] * 40).p_value  # 1 / 1001
    0.000999000999000999
    """
    rows, labels = check_rows(probs, targets)
    num_bins, num_draws = check_count("num_bins", num_bins), check_count("num_draws", num_draws)
    statistic = top_label_error(rows, labels, num_bins=num_bins).value
    redrawn = _redrawn(top_label(rows, labels)[0], num_bins, num_draws, seed)
    # Draws that repeat the observed rights and wrongs must count, whatever the order of the sums.
    reached = int((redrawn >= statistic - 1e-12).sum())
    return CalibrationTest(statistic, (1 + reached) / (1 + num_draws), num_draws)


def _redrawn(confidences: Floats, num_bins: int, num_draws: int, seed: int) -> Floats:
    """The debiased squared error (R,) of R redraws, all at once: `L2CalibrationError` tells what each term is."""
    bins = np.unique(error_bins(confidences, num_bins), return_inverse=True)[1]
    num_rows, sizes = len(bins), np.bincount(bins).astype(np.float64)
    members = np.eye(len(sizes))[bins]
    weighted = members * confidences[:, None]
    says, squares = weighted.sum(axis=0), np.bincount(bins, confidences**2)
    rng, values = np.random.default_rng(seed), []
    for draws in chunks(num_draws, num_rows):
        hits = (rng.random((draws, num_rows)) < confidences).astype(np.float64)
        right = hits @ members
        means = (says - right) / sizes
        spread = np.maximum(squares - 2 * (hits @ weighted) + right - sizes * means**2, 0)
        values.append((sizes / num_rows * means**2).sum(axis=1) - _noise(spread, sizes) / num_rows)
    return np.concatenate(values)


def _noise(spread: Floats, sizes: Floats) -> Floats:
    """Σ_b of the variance in each bin (R,) from sums of squared residuals (R, B); bins of one row get the mean one."""
    free = sizes.sum() - len(sizes)
    pooled = spread.sum(axis=1, keepdims=True) / free if free > 0 else np.full((len(spread), 1), 0.25)
    noise: Floats = np.where(sizes > 1, spread / np.maximum(sizes - 1, 1), pooled).sum(axis=1)
    return noise
