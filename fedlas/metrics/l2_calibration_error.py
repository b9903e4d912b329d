"""The debiased squared ℓ2 calibration error, with intervals.

With bins of equal mass, w_b = n_b/N and d_b the mean of confidence − correctness in b, the error is θ = Σ w_b·E[d_b]².
Its plug-in value Σ w_b·d_b² is too large by the noise Σ w_b·Var(d_b), which is estimated and taken off (Kumar et al.
2019, arXiv 1909.10155). The interval inverts a test: the plug-in value is a quadratic form in nearly normal means,
whose variance is 2·tr(M²) + 4κ·θ, with M the covariance of √w_b·d_b. So it holds near θ = 0, where the error of the
estimate shrinks like 1/N, as well as away from it, where it shrinks like 1/√N (the two regimes of arXiv 2408.08998).

The noise floor: the range of a binned error when labels are redrawn from the model's own probabilities.

This is consistency resampling (Bröcker & Smith 2007): the redrawn labels are calibrated by construction, so an error
inside the floor shows nothing. The test of calibration redraws correctness from the model's own confidences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.figures import CalibrationTest, Estimate
from fedlas.metrics.calibration_error import class_cells, equal_mass_bins, equal_width_bins, top_label
from fedlas.metrics.statistics import Floats, Ints, check_count, check_level, check_probs, check_rows, chunks


def calibration_error_l2(probs: ArrayLike, targets: ArrayLike, *, num_bins: int = 15) -> float:
    """Debiased *squared* ℓ2 error of the top label: unbiased, hence slightly negative in half of all calibrated cases.

    The root of it would be biased; take it of the ends of an interval if need be. Raises a ValueError as
    `accuracy` does.

    >>> probs = [[0.8, 0.2]] * 1000
    >>> value = calibration_error_l2(probs, [0] * 500 + [1] * 500)  # says 80 %, is right in 50 %
    >>> round(value, 3)  # 0.3², but for the noise 0.25/999
    0.09
    """
    num_bins = check_count("num_bins", num_bins)
    return top_label_error(*check_rows(probs, targets), num_bins=num_bins).value


@dataclass(frozen=True)
class _Noise:
    """The covariance M (B, B) of √w_b·d_b, as it takes off the bias, and smoothed, as the interval needs it."""

    unbiased: Floats
    smoothed: Floats


class L2CalibrationError:
    """The estimate for probabilities (N,) of an event and whether it came true, 0 or 1 (N,), and its intervals."""

    def __init__(self, confidences: Floats, correct: Floats, *, num_bins: int, groups: Ints | None = None) -> None:
        self._bins = np.unique(error_bins(confidences, num_bins), return_inverse=True)[1]
        self._excess = confidences - correct
        self._groups = np.arange(len(confidences)) if groups is None else groups
        self._sizes = np.bincount(self._bins).astype(np.float64)
        self._means = np.bincount(self._bins, self._excess) / self._sizes
        self._scaled = np.sqrt(self._sizes / len(confidences)) * self._means
        self._noise = self._estimate_noise(correct, grouped=groups is not None)
        self.value = float(self._scaled @ self._scaled - np.trace(self._noise.unbiased))

    def estimate(self, confidence_level: float) -> Estimate:
        """The error with its interval, which lies in [0, ∞) except that it always holds the estimate itself."""
        noise = self._noise.smoothed
        bias, spread = float(np.trace(noise)), float(2 * (noise**2).sum())
        plug_in = max(self.value, -np.trace(self._noise.unbiased)) + bias
        slope = 4 * float(self._scaled @ noise @ self._scaled) / max(float(self._scaled @ self._scaled), 1e-300)
        z = NormalDist().inv_cdf((1 + confidence_level) / 2)

        def score(theta: float) -> float:
            # Wilson and Hilferty: the cube root of a quadratic form in normals is nearly normal.
            mean = bias + theta
            relative = (spread + slope * theta) / (9 * mean**2)
            return float((np.cbrt(plug_in / mean) - (1 - relative)) / np.sqrt(relative))

        low, high = _falling_root(score, z), _falling_root(score, -z)
        return Estimate(value=self.value, low=min(low, self.value), high=max(high, self.value))

    def minus(self, other: L2CalibrationError, confidence_level: float) -> Estimate:
        """The difference of two models on the same rows: a normal interval, the rows' influences paired."""
        value = self.value - other.value
        influence = np.bincount(self._groups, self._influence() - other._influence())
        linear = len(influence) * float(influence.var(ddof=1)) if len(influence) > 1 else 1.0
        # The variance if both errors were 0 is that of two quadratic forms in correlated normals.
        own = [2 * float((part._noise.unbiased**2).sum()) for part in (self, other)]
        smoothing = [2 * float(((p._noise.smoothed - p._noise.unbiased) ** 2).sum()) for p in (self, other)]
        shared = 4 * float(((self._group_sums().T @ other._group_sums()) ** 2).sum())
        curved = max(sum(own) - shared, 0.0) + sum(smoothing)
        # Estimated slopes carry noise, which adds twice the curved part to the linear one: once is due anyway, and
        # without the other the intervals covered only 93 % at N = 1,000.
        half = NormalDist().inv_cdf((1 + confidence_level) / 2) * float(np.sqrt(max(linear, curved)))
        return Estimate(value=value, low=value - half, high=value + half)

    def _influence(self) -> Floats:
        """Influence of each row on the first order of the estimate (N,)."""
        mean = self._means[self._bins]
        influence: Floats = 2 * mean * (self._excess - mean) / len(self._bins)
        influence += mean**2 / len(self._bins)
        return influence

    def _estimate_noise(self, correct: Floats, *, grouped: bool) -> _Noise:
        residual = self._excess - self._means[self._bins]
        size, num_rows = self._sizes, len(residual)
        # A bin of one row has no variance of its own; all rows together lend it theirs.
        pooled = (residual**2).sum() / max(num_rows - len(size), 1) if num_rows > len(size) else 0.25
        own = np.bincount(self._bins, residual**2) / np.maximum(size - 1, 1)
        rows = np.diag(np.where(size > 1, own, pooled) / num_rows)
        # Half a success and half a failure more: a bin of right answers only is not free of noise.
        share = (np.bincount(self._bins, correct) + 0.5) / (size + 1)
        smoothed = np.diag(np.maximum(np.diag(rows), share * (1 - share) / num_rows))
        if not grouped:
            return _Noise(rows, smoothed)
        sums = self._group_sums()
        num_groups = len(sums)
        if num_groups < 2:
            raise ValueError("groups must be at least 2 for an interval, got 1")
        clusters = num_groups / (num_groups - 1) * sums.T @ sums
        return _Noise(clusters, clusters + np.diag(np.maximum(np.diag(smoothed) - np.diag(clusters), 0)))

    def _group_sums(self) -> Floats:
        """Sums (G, B) of residuals over each group and bin, scaled so that their squares add up to M."""
        num_groups, num_bins = int(self._groups.max()) + 1, len(self._sizes)
        residual = self._excess - self._means[self._bins]
        cells = np.bincount(self._groups * num_bins + self._bins, residual, minlength=num_groups * num_bins)
        return cells.reshape(num_groups, num_bins) / np.sqrt(self._sizes * len(residual))


def top_label_error(probs: Floats, targets: Ints, *, num_bins: int, groups: Ints | None = None) -> L2CalibrationError:
    return L2CalibrationError(*top_label(probs, targets), num_bins=num_bins, groups=groups)


def error_bins(confidences: Floats, num_bins: int) -> Ints:
    """Bins of equal mass (N,); two rows a bin are the fewest that show their own noise."""
    return equal_mass_bins(confidences, max(1, min(num_bins, len(confidences) // 2)))


def _falling_root(function: Callable[[float], float], target: float) -> float:
    """The θ >= 0 where a falling function meets its target; 0 where it starts below."""
    from scipy.optimize import brentq  # loaded where intervals are computed: 50 MB that serving does without

    if function(0.0) <= target:
        return 0.0
    high = 1.0
    while function(high) > target:
        if high >= 1e6:
            return high
        high *= 2
    return float(brentq(lambda theta: function(theta) - target, 0.0, high, xtol=1e-15))


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
