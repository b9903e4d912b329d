"""Isotonic scaling: a monotone curve, of the log-odds for two classes and common to all probabilities for more.

The curve has few knots: pool-adjacent-violators on binned rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlas.calibrators.base import (
    MAX_LOGITS,
    MIN_FACTOR,
    Floats,
    Ints,
    LogitsCalibrator,
    TemperatureScaling,
    effective_count,
    log_softmax,
    pair,
    require_two_classes,
)
from fedlas.calibrators.spline import stacked_log_odds
from fedlas.calibrators.stack import Columns, Stack

MAX_KNOTS = 32
#: A bin holds at least so much of Σ|hit − p|, about as many rows as its mean needs to mean something.
_MIN_RESIDUAL_PER_KNOT = 10.0
#: Every bin begins with so many rows that say what the probabilities say: its mean is never 0 or 1.
_PRIOR_ROWS = 1.0


def monotone_knots(probs: Floats, hits: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Mean probability and mean hit of at most `MAX_KNOTS` groups of rows, both strictly increasing, inside (0, 1).

    Centred isotonic regression (Oron and Flournoy 2017): a pool stands at the mean of what it pooled, not as a step.

    Args:
        probs, hits: (N,) in [0, 1].
        rows: weights (N,); their sum is the number of rows.
    """
    from scipy.optimize import (
        isotonic_regression,
    )  # loaded where calibrators are fitted: API and workers start without it

    order = np.argsort(probs, kind="stable")
    probs, hits, rows = probs[order], hits[order], rows[order]
    bins = _bins(rows * np.abs(hits - probs), rows)
    bins = bins[np.searchsorted(probs, probs)]  # equal probabilities stay together
    filled = np.bincount(bins, rows).astype(np.float64)
    used = filled > 0
    mass = filled[used]
    says = np.clip(np.bincount(bins, rows * probs)[used] / mass, 1e-12, 1 - 1e-12)
    mean_hits = (np.bincount(bins, rows * hits)[used] + _PRIOR_ROWS * says) / (mass + _PRIOR_ROWS)
    mass = mass + _PRIOR_ROWS
    pools = np.cumsum(np.diff(isotonic_regression(mean_hits, weights=mass).x, prepend=-1.0) > 0) - 1
    whole = np.bincount(pools, mass)
    return np.bincount(pools, mass * says) / whole, np.bincount(pools, mass * mean_hits) / whole


def _bins(residual: Floats, rows: Floats) -> Ints:
    """Bin of every row, in order, so that each bin holds the same residual."""
    count = int(np.clip(float(residual.sum()) / _MIN_RESIDUAL_PER_KNOT, 1, MAX_KNOTS))
    share = np.cumsum(residual + 1e-12 * rows)
    middle = share - 0.5 * (residual + 1e-12 * rows)
    return np.asarray(np.minimum((middle / share[-1] * count).astype(np.int64), count - 1))


def bounded_slopes(x: Floats, y: Floats, *, lowest: float, highest: float) -> tuple[Floats, Floats]:
    """Knots (J,) and values (J,), thinned and raised so that every slope lies in lowest..highest.

    A jump is taken apart from its upper end: knots that climb too fast are merged into the mean of both.
    """
    kept = [(x[0], y[0], 1.0)]
    for point in zip(x[1:], y[1:], strict=True):
        here, value, count = point[0], point[1], 1.0
        while kept and value - kept[-1][1] > highest * (here - kept[-1][0]):
            before, its_value, its_count = kept.pop()
            both = its_count + count
            here, value, count = (
                (before * its_count + here * count) / both,
                (its_value * its_count + value * count) / both,
                both,
            )
        kept.append((here, value, count))
    knots, values = np.array([k[0] for k in kept]), np.array([k[1] for k in kept])
    for j in range(1, len(knots)):
        values[j] = max(values[j], values[j - 1] + lowest * (knots[j] - knots[j - 1]))
    return knots, values


#: A steeper curve would copy the jumps of isotonic regression, and blow up the rounding of float32.
_MAX_SLOPE = 20.0


class IsotonicScaling(LogitsCalibrator):
    """A strictly increasing, piecewise linear curve g on at most 32 knots, outside of them a straight line.

    With p = softmax(logits / T), T fitted first, calibrated logits are

    - for two classes `(0, g(ln p₁ − ln p₀))`: isotonic calibration (Zadrozny and Elkan 2002), which may move the
      decision since g(0) need not be 0;
    - for more `g(ln p_k)`, the same g for every class: no order changes and accuracy stays
      (intra order-preserving, as isotonic regression in arXiv 2003.07329).

    Knots are pools of centred isotonic regression over rows grouped so that each group holds the same sum of
    residuals; every group begins with one row that agrees with p, so that no probability becomes 0 or 1 and few rows
    give the temperature. For more classes one last temperature is fitted by maximum likelihood, since the pools know
    nothing of the softmax that follows.
    """

    name = "isotonic"

    def __init__(
        self,
        x: Sequence[float] = (0.0,),
        y: Sequence[float] = (0.0,),
        *,
        slope: float = 1.0,
        temperature: float = 1.0,
        binary: bool = False,
    ) -> None:
        self.x, self.y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if self.x.ndim != 1 or self.x.shape != self.y.shape or not 1 <= len(self.x) <= MAX_KNOTS:
            raise ValueError(f"x and y must both be (J,) with J <= {MAX_KNOTS}, got {self.x.shape} and {self.y.shape}")
        if not (np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise ValueError("x and y must be finite")
        if (np.diff(self.x) <= 0).any() or (np.diff(self.y) <= 0).any() or not 0 < slope < np.inf:
            raise ValueError("x and y must be strictly increasing and slope positive")
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
        self.slope, self.temperature, self.binary = float(slope), float(temperature), bool(binary)
        self.keeps_order = not self.binary

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        if scores.size > MAX_LOGITS:
            raise ValueError(f"IsotonicScaling needs logits with N·K <= {MAX_LOGITS}, got {scores.shape}")
        temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        rows = rows * effective_count(rows)
        logs = log_softmax(scores / temperature)
        if scores.shape[1] == 2:
            means, mean_hits = monotone_knots(np.exp(logs[:, 1]), labels.astype(np.float64), rows)
            x, y = _log_odds(means), _log_odds(mean_hits)
        else:
            hits = np.zeros_like(logs)
            hits[np.arange(len(labels)), labels] = 1.0
            means, mean_hits = monotone_knots(np.exp(logs).ravel(), hits.ravel(), np.repeat(rows, scores.shape[1]))
            x, y = np.log(means), np.log(mean_hits)
        x, y = bounded_slopes(x, y, lowest=MIN_FACTOR, highest=_MAX_SLOPE)
        self.x, self.y, self.slope, self.temperature = x, y, 1.0, temperature
        self.binary = scores.shape[1] == 2
        self.keeps_order = not self.binary
        if not self.binary:
            last = TemperatureScaling().fit(self._curve(logs), labels, weights=rows).temperature
            self.y, self.slope = self.y / last, self.slope / last

    def transform(self, scores: Floats) -> Floats:
        logs = log_softmax(scores / self.temperature)
        if not self.binary:
            return self._curve(logs)
        require_two_classes(self, logs)
        return pair(self._curve(logs[:, 1] - logs[:, 0]))

    def _curve(self, values: Floats) -> Floats:
        inside = np.interp(values, self.x, self.y)
        outside = np.minimum(values - self.x[0], 0.0) + np.maximum(values - self.x[-1], 0.0)
        return np.asarray(inside + self.slope * outside)

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        """y₀ + Σ cᵢ·relu(±(v − xᵢ)): the hinges open away from the middle knot, so that least is cancelled there."""
        middle, tempered = len(self.x) // 2, logits * (1.0 / self.temperature)
        signs, knots, weights = hinges = _hinges(self.x, self.y, self.slope, middle)
        if not self.binary:
            logs = stack.log_softmax(tempered)
            return stack.apply("Curve", logs, hinges=hinges) + np.full(logits.width, self.y[middle])
        log_odds = stacked_log_odds(stack, tempered)
        opened = stack.apply("Relu", log_odds @ signs[None] - signs * knots)
        return opened @ (weights[:, None] * [[0.0, 1.0]]) + [0.0, self.y[middle]]


def _log_odds(probs: Floats) -> Floats:
    return np.asarray(np.log(probs) - np.log1p(-probs))


def _hinges(x: Floats, y: Floats, slope: float, middle: int) -> tuple[Floats, Floats, Floats]:
    """Signs, knots and weights (J + 1,) of hinges that add up to the curve less its height at the middle knot."""
    slopes = np.concatenate([[slope], np.diff(y) / np.diff(x), [slope]])  # left of knot j: slopes[j]
    right, left = np.diff(slopes[middle + 1 :], prepend=0.0), np.diff(slopes[middle::-1], prepend=0.0)
    signs = np.concatenate([np.ones(len(right)), -np.ones(len(left))])
    return signs, np.concatenate([x[middle:], x[middle::-1]]), np.concatenate([right, -left])
