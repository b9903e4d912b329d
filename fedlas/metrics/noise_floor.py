"""The noise floor: the range of a binned error when labels are redrawn from the model's own probabilities.

This is consistency resampling (Bröcker & Smith 2007): the redrawn labels are calibrated by construction, so an error
inside the floor shows nothing. The test of calibration redraws correctness from the model's own confidences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.figures import CalibrationTest
from fedlas.metrics._checks import Floats, Ints, check_count, check_level, check_probs, check_rows
from fedlas.metrics.bootstrap import chunks
from fedlas.metrics.calibration_error import class_cells, equal_mass_bins, equal_width_bins, top_label
from fedlas.metrics.l2_calibration_error import error_bins, top_label_error


@dataclass(frozen=True)
class ConsistencyBand:
    """The range of each bin's accuracy in a `ReliabilityCurve` of a calibrated model; NaN in empty bins."""

    low: Floats
    high: Floats


def redrawn_labels(probs: Floats, num_draws: int, seed: int) -> Iterator[Ints]:
    """Labels (r, N) drawn from checked probabilities (N, K), chunk by chunk."""
    num_rows, num_classes = probs.shape
    top, ends = probs.argmax(axis=1), _interval_ends(probs)
    # Searching each draw among K ends took most of the time of a whole report. A table per row says where to begin,
    # which leaves less than one step to go on average (Chen & Asau 1974).
    slots = 2 * num_classes
    begin = np.searchsorted(
        (ends + 2 * np.arange(num_rows)[:, None]).ravel(),
        (np.arange(slots) / slots + 2 * np.arange(num_rows)[:, None]).ravel(),
        side="right",
    )
    ends[:, -1] = np.inf
    rng = np.random.default_rng(seed)
    for draws in chunks(num_draws, num_rows):
        uniform = rng.random((draws, num_rows))
        place = begin[(uniform * slots).astype(np.int64) + slots * np.arange(num_rows)]
        places = _walk(place.ravel(), ends.ravel(), uniform.ravel()).reshape(place.shape)
        chosen = places - ends.shape[1] * np.arange(num_rows)
        yield np.where(chosen == 0, top, chosen - 1)


def _interval_ends(probs: Floats) -> Floats:
    """Ends (N, 1 + K) in [0, 1], the most probable class first and then of width 0: near models draw alike."""
    rows, top = np.arange(len(probs)), probs.argmax(axis=1)
    parts = np.concatenate([probs[rows, top][:, None], probs], axis=1)
    parts[rows, 1 + top] = 0
    ends: Floats = np.cumsum(parts, axis=1)
    ends /= ends[:, -1:].copy()
    return ends


def _walk(places: Ints, ends: Floats, uniform: Floats) -> Ints:
    """Step up, where needed, to the first end above each uniform number."""
    short = np.flatnonzero(ends[places] <= uniform)
    while len(short):
        places[short] += 1
        short = short[ends[places[short]] <= uniform[short]]
    return places


def floor_draws(probs: Floats, *, num_bins: int, num_draws: int, seed: int) -> Floats:
    """ECE, adaptive ECE and classwise ECE, (R, 3), of R calibrated redraws of the labels of checked rows."""
    num_rows, num_classes = probs.shape
    confidences, top = probs.max(axis=1), probs.argmax(axis=1)
    binnings = [bins(confidences, num_bins) for bins in (equal_width_bins, equal_mass_bins)]
    members = np.concatenate([_members(bins, num_bins) for bins in binnings], axis=1)
    expected = confidences @ members
    num_cells, cells_of_rows = num_classes * num_bins, class_cells(probs, num_bins).ravel()
    class_expected = np.bincount(cells_of_rows, probs.ravel(), minlength=num_cells)

    draws = []
    for labels in redrawn_labels(probs, num_draws, seed):
        gaps = np.abs((labels == top).astype(np.float32) @ members - expected)
        hits = _hits(cells_of_rows[labels + num_classes * np.arange(num_rows)], num_cells)
        class_error = np.abs(hits - class_expected).sum(axis=1) / (num_rows * num_classes)
        top_errors = gaps.reshape(len(labels), 2, num_bins).sum(axis=2) / num_rows
        draws.append(np.column_stack([top_errors, class_error]))
    return np.concatenate(draws)


def consistency_band(
    probs: ArrayLike, *, num_bins: int = 15, num_resamples: int = 1000, confidence_level: float = 0.95, seed: int = 0
) -> ConsistencyBand:
    """The central range, bin by bin, of the accuracy of the top label if the model were calibrated.

    Raises:
        ValueError: as `fedlas.metrics.accuracy`, or an option is out of range.
    """
    rows, num_bins = check_probs(probs), check_count("num_bins", num_bins)
    tail = (1 - check_level(confidence_level)) / 2
    members = _members(equal_width_bins(rows.max(axis=1), num_bins), num_bins)
    top, sizes = rows.argmax(axis=1), members.sum(axis=0)
    draws = redrawn_labels(rows, check_count("num_resamples", num_resamples), seed)
    hits = np.concatenate([(labels == top).astype(np.float32) @ members for labels in draws])
    low, high = np.quantile(hits, [tail, 1 - tail], axis=0) / np.where(sizes > 0, sizes, np.nan)
    return ConsistencyBand(low, high)


def _members(bins: Ints, num_bins: int) -> Floats:
    """One-hot rows (N, B) in float32, which counts exactly up to 16 million rows and halves the time."""
    return np.eye(num_bins, dtype=np.float32)[bins]  # type: ignore[return-value]


def _hits(cells: Ints, num_cells: int) -> Ints:
    """How often each cell occurs in every draw, (r, cells), for the cells (r, N) that the draws fell in."""
    shifted = cells + num_cells * np.arange(len(cells))[:, None]
    return np.bincount(shifted.ravel(), minlength=num_cells * len(cells)).reshape(len(cells), num_cells)


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
    return CalibrationTest(statistic=statistic, p_value=(1 + reached) / (1 + num_draws), num_draws=num_draws)


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
    return np.asarray(np.where(sizes > 1, spread / np.maximum(sizes - 1, 1), pooled).sum(axis=1))
