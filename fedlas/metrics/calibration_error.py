"""Binned calibration errors: ECE, adaptive ECE, classwise ECE.

All are biased upward: a perfectly calibrated classifier has an ECE of about 0.02 on 1,000 rows. `noise_floor` computes
the range to compare them with. Every row falls in exactly one bin.

CORP: reliability without bins, by isotonic regression (Dimitriadis, Gneiting & Jordan, PNAS 2021).

Consistent, optimally binned, reproducible, by the pool-adjacent-violators algorithm: the share of right answers as the
non-decreasing function of confidence that fits best. Nobody chooses a number of bins, and the Brier score of the top
label falls into what miscalibration costs, what the confidences tell apart, and what the labels leave open.

The confidence gap: what a classifier says in the mean, minus how often it is right, with its standard error.

A calibrator is fitted on rows whose chance it keeps: a correct temperature that was fitted on 1,000 rows is off by
about a point on all others. An error that knows the test rows alone accuses it too often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics.statistics import Floats, Ints, check_count, check_level, check_probs, check_rows, chunks

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

from math import hypot, sqrt

from fedlas.contract.figures import ConfidenceGap
from fedlas.metrics.statistics import check_groups, row_shares, unit_sums


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
    differ by less than 1 / (max_steps − 1) are reported as one; the three parts of the score are those of all steps.

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


#: A gap of more standard errors than this is more than chance explains: of calibrated models 4.6 % have one.
#: Two splits are apart beyond chance where as unlikely as this many standard errors of a normal distribution.
STANDARD_ERRORS_APART = 3.0


def confidence_gap(
    probs: ArrayLike, targets: ArrayLike, *, groups: ArrayLike | None = None, fitted_units: float | None = None
) -> ConfidenceGap:
    """The gap of the top label on test rows, and √(v/n_calibration + v/n_test), its standard error.

    v is the variance of confidence − [ŷ = y] among rows, and at least that of independent rows that are right as often
    as they say. Where rows belong to groups, v is that of whole groups, and both n count groups.

    Args:
        groups: labels (N,) of rows that depend on each other.
        fitted_units: n_calibration, the rows or groups that the model's calibrator was fitted on
            (`effective_units`, where they have weights); None of a model that was fitted on none.

    Raises:
        ValueError: as `fedlas.metrics.accuracy`, or groups are not (N,).

    >>> sure = [[0.9, 0.1]] * 100, [0] * 80 + [1] * 20
    >>> alone = confidence_gap(*sure)
    >>> round(alone.gap, 3), round(alone.standard_error, 3), alone.beyond_chance  # 0.4 / √99
    (0.1, 0.04, True)
    >>> fitted = confidence_gap(*sure, fitted_units=50)
    >>> round(fitted.standard_error, 3), fitted.beyond_chance  # 0.04 · √(1 + 100 / 50)
    (0.07, False)
    """
    return top_label_gap(*top_label(*check_rows(probs, targets)), groups=groups, fitted_units=fitted_units)


def top_label_gap(
    confidences: Floats,
    correct: Floats,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    fitted_units: float | None = None,
) -> ConfidenceGap:
    """`confidence_gap` of confidences (N,) that are right or not (N,), weighted by `weights` (N,)."""
    shares = row_shares(weights, len(confidences))
    says, right = (float(np.average(values, weights=shares)) for values in (confidences, correct))
    parts = unit_sums(shares * (confidences - correct - (says - right)), groups)
    drawn = float(shares**2 @ (confidences * (1 - confidences)))
    variance = max(float(parts @ parts) * len(parts) / max(len(parts) - 1, 1), drawn)
    if fitted_units is not None:
        variance *= 1 + effective_units(len(shares), groups=groups, weights=weights) / fitted_units
    return ConfidenceGap(
        mean_confidence=says, accuracy=right, gap=says - right, standard_error=sqrt(variance), num_rows=len(shares)
    )


def effective_units(num_rows: int, *, groups: ArrayLike | None = None, weights: ArrayLike | None = None) -> float:
    """How many equal rows or groups would vary as little in the mean as these: 1 / Σ share² (Kish 1965).

    >>> effective_units(4), effective_units(4, groups=["a", "a", "b", "b"]), effective_units(3, weights=[2, 1, 1])
    (4.0, 2.0, 2.6666666666666665)
    """
    shares = unit_sums(row_shares(weights, num_rows), groups)
    return 1 / float(shares @ shares)


@dataclass(frozen=True)
class SplitAccuracy:
    """The share of rows that are answered rightly.

    Attributes:
        error: its standard error, over whole groups; never that of exactly 0 or 1, which no finite sample shows.
        num_units: how many rows or groups vary independently; `effective_units` are as many of equal weight.
    """

    value: float
    error: float
    num_units: int
    effective_units: float

    @classmethod
    def of(
        cls, correct: ArrayLike, *, groups: ArrayLike | None = None, weights: ArrayLike | None = None
    ) -> SplitAccuracy:
        """Accuracy of rows (N,) that are right or not, in groups (N,) that vary together, weighted by `weights` (N,).

        >>> SplitAccuracy.of([1, 1, 0, 0]).error < SplitAccuracy.of([1, 1, 0, 0], groups=[0, 0, 1, 1]).error
        True
        """
        hits: Floats = np.asarray(correct, dtype=np.float64)
        rows = row_shares(weights, len(hits))
        codes = check_groups(groups, len(hits))
        units = np.arange(len(hits)) if codes is None else codes
        value, count = float(rows @ hits), int(units.max()) + 1
        scatter = np.square(np.bincount(units, rows * (hits - value))).sum() * count / max(count - 1, 1)
        error = sqrt(max(float(scatter), 0.25 / count**2))
        return cls(value, error, count, effective_units(len(hits), groups=groups, weights=weights))

    def interval(self, confidence_level: float) -> tuple[float, float]:
        """Between which accuracies that of all rows lies, by Student's t over whole groups.

        >>> low, high = SplitAccuracy.of([1] * 80 + [0] * 20).interval(0.95)
        >>> round(low, 2), round(high, 2)
        (0.72, 0.88)
        """
        from scipy.special import stdtrit  # loaded with the first report, not with the module

        half = float(stdtrit(max(self.num_units - 1, 1), (1 + confidence_level) / 2)) * self.error
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def is_apart(self, other: SplitAccuracy) -> bool:
        """True where the two differ beyond chance, by Student's t with the degrees of freedom of the smaller one.

        Splits of one unit each tell nothing of how units vary, so they are never apart.
        """
        freedom = min(self.num_units, other.num_units) - 1
        if freedom < 1:
            return False
        from scipy.special import ndtr, stdtrit  # `scipy.stats` would delay the start of every process by half a second

        limit = float(stdtrit(freedom, ndtr(STANDARD_ERRORS_APART)))
        return abs(self.value - other.value) >= limit * hypot(self.error, other.error)
