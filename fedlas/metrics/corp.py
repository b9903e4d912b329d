"""CORP: reliability without bins, by isotonic regression (Dimitriadis, Gneiting & Jordan, PNAS 2021).

Consistent, optimally binned, reproducible, by the pool-adjacent-violators algorithm: the share of right answers as the
non-decreasing function of confidence that fits best. Nobody chooses a number of bins, and the Brier score of the top
label falls into what miscalibration costs, what the confidences tell apart, and what the labels leave open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, Ints, check_count, check_level, check_probs, check_rows
from fedlas.metrics.bootstrap import chunks
from fedlas.metrics.calibration_error import top_label

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

#: Redraws are fitted on so many runs of neighbouring confidences at most, so that their time does not grow with N.
_MAX_RUNS = 2000


@dataclass(frozen=True)
class CorpCurve:
    """A reliability curve of S steps, (S,) each, and the parts of the top label's Brier score.

    Of the `counts` rows with a confidence from `starts` to `ends` the share `accuracy` is right. The mean of
    (confidence − right)² is `miscalibration − discrimination + uncertainty`: what the curve would save in place of the
    confidences, what it saves against one confidence for all rows, and the variance of right and wrong.
    """

    starts: Floats
    ends: Floats
    counts: Ints
    accuracy: Floats
    miscalibration: float
    discrimination: float
    uncertainty: float


@dataclass(frozen=True)
class CurveBand:
    """The range, point by point, in which the CORP curve of a calibrated model lies, at confidences (P,)."""

    confidence: Floats
    low: Floats
    high: Floats


def corp_curve(probs: ArrayLike, targets: ArrayLike, *, max_steps: int = 200) -> CorpCurve:
    """The CORP reliability curve of the top label.

    Rows of equal confidence are one point. Where there are more steps than `max_steps`, neighbours whose accuracies
    differ by less than 1 / (max_steps − 1) are told as one; the three parts of the score are those of all steps.

    Raises:
        ValueError: as `accuracy`, or `max_steps` is no integer of at least 2.

    >>> curve = corp_curve([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1]], [0, 1, 0, 0])
    >>> curve.accuracy.tolist(), curve.starts.tolist(), curve.counts.tolist()
    ([0.5, 1.0], [0.6, 0.8], [2, 2])
    >>> round(curve.miscalibration - curve.discrimination + curve.uncertainty, 4)  # (0.4² + 0.7² + 0.2² + 0.1²) / 4
    0.175
    """
    confidences, correct = top_label(*check_rows(probs, targets))
    if check_count("max_steps", max_steps) < 2:
        raise ValueError(f"max_steps must be an integer of at least 2, got {max_steps!r}")
    values, which, counts = np.unique(confidences, return_inverse=True, return_counts=True)
    right = np.bincount(which, correct)
    pools = _non_decreasing(right / counts, counts)
    uncertainty = float(correct.mean() * (1 - correct.mean()))
    recalibrated = float(((pools.x[which] - correct) ** 2).mean())
    starts = pools.blocks[:-1][_told(pools.x[pools.blocks[:-1]], max_steps)]
    sizes = np.add.reduceat(counts, starts)
    return CorpCurve(
        starts=values[starts],
        ends=values[np.append(starts[1:], len(values)) - 1],
        counts=sizes,
        accuracy=np.add.reduceat(right, starts) / sizes,
        miscalibration=float(((confidences - correct) ** 2).mean()) - recalibrated,
        discrimination=uncertainty - recalibrated,
        uncertainty=uncertainty,
    )


def corp_band(
    probs: ArrayLike, *, num_resamples: int = 1000, confidence_level: float = 0.95, max_points: int = 100, seed: int = 0
) -> CurveBand:
    """The consistency band of a CORP curve: whether rows are right is redrawn from their own confidences.

    The points are confidences of rows, at about equal steps from the lowest to the highest. Rows count as independent:
    where they belong to groups, the band is too narrow. More than 2,000 different confidences are joined to as many
    runs of neighbours.

    Raises:
        ValueError: as `fedlas.metrics.accuracy`, or an option is out of range.

    >>> band = corp_band([[0.8, 0.2]] * 100)
    >>> band.confidence.tolist(), bool(band.low[0] < 0.8 < band.high[0])
    ([0.8], True)
    """
    tail = (1 - check_level(confidence_level)) / 2
    confidences, counts = _runs(check_probs(probs).max(axis=1))
    wanted = np.linspace(confidences[0], confidences[-1], check_count("max_points", max_points))
    at = np.unique(np.abs(confidences[:, None] - wanted).argmin(axis=0))
    rng, drawn = np.random.default_rng(seed), []
    for draws in chunks(check_count("num_resamples", num_resamples), len(counts)):
        right = rng.binomial(counts, np.minimum(confidences, 1.0), size=(draws, len(counts)))
        drawn += [_non_decreasing(shares, counts).x[at] for shares in right / counts]
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return CurveBand(confidence=confidences[at], low=low, high=high)


def _non_decreasing(shares: Floats, counts: Ints) -> OptimizeResult:
    """The shares that fit best, `x`, where each of their `blocks` begins, and its weight."""
    from scipy.optimize import isotonic_regression  # with the module it would delay every process of the service

    return isotonic_regression(shares, weights=counts)


def _told(accuracy: Floats, max_steps: int) -> Ints:
    """The places of the increasing steps that are reported: all, unless they are too many."""
    if len(accuracy) <= max_steps:
        return np.arange(len(accuracy))
    begins = [0]
    for i, value in enumerate(accuracy):
        if value - accuracy[begins[-1]] > 1 / (max_steps - 1):
            begins.append(i)
    return np.array(begins)


def _runs(confidences: Floats) -> tuple[Floats, Ints]:
    """Different confidences in increasing order with their counts of rows; of too many, means of equal runs."""
    values, counts = np.unique(confidences, return_counts=True)
    if len(values) <= _MAX_RUNS:
        return values, counts
    starts = np.linspace(0, len(values), _MAX_RUNS, endpoint=False).astype(np.int64)
    sizes = np.add.reduceat(counts, starts)
    return np.add.reduceat(values * counts, starts) / sizes, sizes
