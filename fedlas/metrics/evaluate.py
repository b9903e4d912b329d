"""Evaluation: all metrics of one model, or of the difference of two, with intervals or noise floors.

Accuracy, NLL, Brier, AURC and AUGRC come with percentile bootstrap intervals (paired for a difference), the squared
calibration error with its own interval, and the binned errors beside their noise floor. Resampling takes whole groups
where rows belong to groups; the noise floor does not know groups. Where every row is right, a bootstrap interval has no
width.

Accuracy and the proper scores NLL and Brier, row by row and in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.figures import BinnedEstimate, Estimate
from fedlas.metrics.calibration_error import adaptive_ece, classwise_ece, ece, top_label
from fedlas.metrics.l2_calibration_error import floor_draws, top_label_error
from fedlas.metrics.selective import RiskCoverage
from fedlas.metrics.statistics import (
    Floats,
    Ints,
    ResamplingUnits,
    check_count,
    check_groups,
    check_level,
    check_rows,
    percentile_interval,
)

Score = Literal["brier", "nll"]


def accuracy(probs: ArrayLike, targets: ArrayLike) -> float:
    """Share of rows whose most probable class (the first among equals) is the target.

    Args:
        probs: probabilities (N, K), NumPy array or CPU tensor of any float type; computed in float64.
        targets: class indices (N,).

    Raises:
        ValueError: empty or ill-shaped input, NaN, negative probabilities, rows that do not sum to 1 within 1e-3,
            targets that are no class; the message names the row.

    >>> accuracy([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    0.5
    """
    return float(top_label(*check_rows(probs, targets))[1].mean())


def nll(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean of −log p[y], in nats; only a probability of exactly 0 is moved, to the smallest normal float64 (708 nats).

    Raises:
        ValueError: see `accuracy`.

    >>> round(nll([[0.5, 0.5]], [1]), 6)
    0.693147
    """
    return float(row_scores(probs, targets, score="nll").mean())


def brier(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean of Σ_k (p[k] − 1[k = y])² (Brier 1950): summed over the classes, so between 0 and 2.

    Raises:
        ValueError: see `accuracy`.

    >>> brier([[1.0, 0.0]], [1])
    2.0
    """
    return float(row_scores(probs, targets, score="brier").mean())


def row_scores(probs: ArrayLike, targets: ArrayLike, *, score: Score) -> Floats:
    """The score of every row, (N,) float64: what a paired comparison of two models takes the difference of.

    Raises:
        ValueError: `score` is neither "brier" nor "nll"; see also `accuracy`.
    """
    rows, labels = check_rows(probs, targets)
    if score == "nll":
        return _nll_rows(rows, labels)
    if score == "brier":
        return _brier_rows(rows, labels)
    raise ValueError(f"score must be 'brier' or 'nll', got {score!r}")


def proper_rows(probs: Floats, targets: Ints) -> Floats:
    """Columns correct, NLL, Brier, (N, 3), of rows that were checked."""
    correct = top_label(probs, targets)[1]
    return np.stack([correct, _nll_rows(probs, targets), _brier_rows(probs, targets)], axis=1)


def _nll_rows(probs: Floats, targets: Ints) -> Floats:
    p = probs[np.arange(len(probs)), targets]
    return -np.log(np.where(p == 0, np.finfo(np.float64).tiny, p))


def _brier_rows(probs: Floats, targets: Ints) -> Floats:
    p = probs[np.arange(len(probs)), targets]
    # Σ p² − p[y]² + (1 − p[y])², without a one-hot matrix and without cancelling near a perfect row.
    return np.asarray(np.maximum(np.einsum("ij,ij->i", probs, probs) - p**2, 0) + (1 - p) ** 2)


METRICS = ("accuracy", "nll", "brier", "calibration_error_l2", "ece", "adaptive_ece", "classwise_ece", "aurc", "augrc")
_BINNED = {"ece": ece, "adaptive_ece": adaptive_ece, "classwise_ece": classwise_ece}

T = TypeVar("T", Floats, np.float64)
Estimates = dict[str, Estimate | BinnedEstimate]


def evaluate(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Estimates:
    """All metrics of probabilities (N, K) against class indices (N,), keyed as in `METRICS`.

    Args:
        groups: labels (N,) of groups whose rows are resampled together.

    Returns:
        `Estimate(value, low, high)`, or `BinnedEstimate(value, floor_low, floor_high)` for the three ECEs.

    Raises:
        ValueError: as `accuracy`, or an option is out of range.

    >>> report = evaluate([[0.9, 0.1], [0.2, 0.8]] * 50, [0, 1] * 50)
    >>> report["accuracy"]
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    return _estimates([probs], targets, groups, num_bins, num_resamples, confidence_level, seed)


def compare(
    probs: ArrayLike,
    baseline_probs: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Estimates:
    """All metrics of `probs` minus those of `baseline_probs` on the same rows, paired.

    The floor of a binned difference is the range it takes when both models are calibrated, with common random numbers.

    Raises:
        ValueError: as `accuracy`, or the two models do not have the same rows and classes.
    """
    return _estimates([probs, baseline_probs], targets, groups, num_bins, num_resamples, confidence_level, seed)


def _estimates(
    models: Sequence[ArrayLike],
    targets: ArrayLike,
    groups: ArrayLike | None,
    num_bins: int,
    num_resamples: int,
    confidence_level: float,
    seed: int,
) -> Estimates:
    checked = [check_rows(probs, targets) for probs in models]
    rows, labels = [probs for probs, _ in checked], checked[0][1]
    if rows[-1].shape != rows[0].shape:
        raise ValueError(f"baseline_probs must be {rows[0].shape}, as probs, got {rows[-1].shape}")
    level, ids = check_level(confidence_level), check_groups(groups, len(labels))
    num_bins, num_resamples = check_count("num_bins", num_bins), check_count("num_resamples", num_resamples)
    report: Estimates = dict(_resampled(rows, labels, ResamplingUnits(ids, len(labels)), num_resamples, level, seed))
    squared, *others = (top_label_error(p, labels, num_bins=num_bins, groups=ids) for p in rows)
    report["calibration_error_l2"] = squared.minus(others[0], level) if others else squared.estimate(level)
    draws = _difference([floor_draws(p, num_bins=num_bins, num_draws=num_resamples, seed=seed) for p in rows])
    for (name, metric), column in zip(_BINNED.items(), draws.T, strict=True):
        value = _difference([np.float64(metric(p, labels, num_bins=num_bins)) for p in rows])
        low, high = percentile_interval(column, level)
        report[name] = BinnedEstimate(value=float(value), floor_low=low, floor_high=high)
    return {name: report[name] for name in METRICS}


def _difference(parts: Sequence[T]) -> T:
    return parts[0] - parts[1] if len(parts) > 1 else parts[0]


def _resampled(
    rows: list[Floats], labels: Ints, units: ResamplingUnits, num_resamples: int, level: float, seed: int
) -> dict[str, Estimate]:
    scores, areas = _difference([proper_rows(p, labels) for p in rows]), [RiskCoverage(p, labels) for p in rows]
    sums = units.sums(scores)

    def statistics(counts: Ints) -> Floats:
        by_row = units.of_rows(counts)
        return np.column_stack([units.means(counts, sums), _difference([part.both(by_row) for part in areas])])

    draws = units.draws(statistics, num_resamples, seed)
    whole = np.ones((1, len(labels)), dtype=np.int64)
    values = [*scores.mean(axis=0), *_difference([part.both(whole) for part in areas])[0]]
    intervals = [percentile_interval(column, level) for column in draws.T]
    names = ("accuracy", "nll", "brier", "aurc", "augrc")
    return {
        name: Estimate(value=float(value), low=low, high=high)
        for name, value, (low, high) in zip(names, values, intervals, strict=True)
    }
