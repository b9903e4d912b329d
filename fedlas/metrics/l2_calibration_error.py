"""The debiased squared ℓ2 calibration error, with intervals.

With bins of equal mass, w_b = n_b/N and d_b the mean of confidence − correctness in b, the error is θ = Σ w_b·E[d_b]².
Its plug-in value Σ w_b·d_b² is too large by the noise Σ w_b·Var(d_b), which is estimated and taken off (Kumar et al.
2019, arXiv 1909.10155). The interval inverts a test: the plug-in value is a quadratic form in nearly normal means,
whose variance is 2·tr(M²) + 4κ·θ, with M the covariance of √w_b·d_b. So it holds near θ = 0, where the error of the
estimate shrinks like 1/N, as well as away from it, where it shrinks like 1/√N (the two regimes of arXiv 2408.08998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.figures import Estimate
from fedlas.metrics._checks import Floats, Ints, check_count, check_rows
from fedlas.metrics.calibration_error import equal_mass_bins, top_label


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
        curved = self._curved_variance(other)
        # Estimated slopes carry noise, which adds twice the curved part to the linear one: once is due anyway, and
        # without the other the intervals covered only 93 % at N = 1,000.
        half = NormalDist().inv_cdf((1 + confidence_level) / 2) * float(np.sqrt(max(linear, curved)))
        return Estimate(value=value, low=value - half, high=value + half)

    def _curved_variance(self, other: L2CalibrationError) -> float:
        """Variance of the difference if both errors were 0: of two quadratic forms in correlated normals."""
        own = [2 * float((part._noise.unbiased**2).sum()) for part in (self, other)]
        smoothing = [2 * float(((p._noise.smoothed - p._noise.unbiased) ** 2).sum()) for p in (self, other)]
        shared = 4 * float(((self._group_sums().T @ other._group_sums()) ** 2).sum())
        return max(sum(own) - shared, 0.0) + sum(smoothing)

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
