"""Spline and quadratic scaling: a smooth increasing curve through the log-odds of two classes, with straight tails.

A confidence may be too high for likely rows and too low for unlikely ones, which no line through the log-odds can mend
and which beta scaling mends with one bend at a fixed place. The curve here has a slope that is itself piecewise linear
between a few knots, so that "increasing" is a bound on each slope, and "smooth" a penalty on their differences.

Two classes: a line through the log-odds (affine), and slopes of their own for its two tails (beta).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import (
    MAX_FACTOR,
    MAX_TEMPERATURE,
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
from fedlas.calibrators.regression import bounded_newton, logistic_line, platt_targets
from fedlas.calibrators.stack import Columns, Stack


class AffineScaling(LogitsCalibrator):
    """Two classes: calibrated log-odds = a·(s₁ − s₀) + b with a > 0 (Platt 1999).

    The intercept mends a shifted base rate, which no temperature can. The slope stays between 1e-5 and 100, as the
    inverse of a temperature does. Calibrated logits: `(0, log-odds)`.
    """

    name = "affine"
    two_classes_only = True

    def __init__(self, slope: float = 1.0, intercept: float = 0.0) -> None:
        if not (np.isfinite(slope) and slope > 0 and np.isfinite(intercept)):
            raise ValueError(f"slope must be positive and both finite, got slope={slope!r}, intercept={intercept!r}")
        self.slope, self.intercept = float(slope), float(intercept)

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        column = scores[:, 1:] - scores[:, :1]
        line = logistic_line(column, platt_targets(labels, rows), rows, lowest=1.0 / MAX_TEMPERATURE)
        self.slope, self.intercept = line.tolist()

    def transform(self, scores: Floats) -> Floats:
        return pair(self.slope * (scores[:, 1] - scores[:, 0]) + self.intercept)

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return stacked_log_odds(stack, logits) @ [[0.0, self.slope]] + [0.0, self.intercept]


class BetaScaling(LogitsCalibrator):
    """Two classes: calibrated log-odds = a·ln p − b·ln(1 − p) + c with a, b > 0 and p = softmax(logits / T)₁.

    Kull, Silva Filho and Flach 2017 ("Beta calibration", AISTATS), of whose family the affine map is the part a = b.
    The temperature T is fitted first, only so that ln p and ln(1 − p) have a useful size. Fitted by maximum likelihood
    with Platt's targets, which keep perfectly separated rows finite; a and b stay at or above 0.01, so that the map
    is strictly increasing. Calibrated logits: `(0, log-odds)`.

    >>> BetaScaling(a=1.0, b=1.0, c=0.5)(np.array([[0.0, 2.0]])).round(6).tolist()
    [[0.0, 2.5]]
    """

    name = "beta"
    two_classes_only = True

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0, temperature: float = 1.0) -> None:
        if not (np.isfinite([a, b, c, temperature]).all() and min(a, b, temperature) > 0):
            raise ValueError(
                f"a, b and temperature must be positive and all finite, got {a=}, {b=}, {c=}, {temperature=}"
            )
        self.a, self.b, self.c, self.temperature = float(a), float(b), float(c), float(temperature)

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        self.temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        logs = log_softmax(scores / self.temperature)
        columns = np.stack([logs[:, 1], -logs[:, 0]], axis=1)
        self.a, self.b, self.c = logistic_line(columns, platt_targets(labels, rows), rows, lowest=MIN_FACTOR).tolist()

    def transform(self, scores: Floats) -> Floats:
        logs = log_softmax(scores / self.temperature)
        return pair(self.a * logs[:, 1] - self.b * logs[:, 0] + self.c)

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        logs = stack.log_softmax(logits * (1.0 / self.temperature))
        return logs @ [[0.0, -self.b], [0.0, self.a]] + [0.0, self.c]


#: The share of rows beyond the outer knots on either side, where the curve is straight.
_TAIL = 0.01


class SplineScaling(LogitsCalibrator):
    """Two classes: calibrated log-odds g(s₁ − s₀), g strictly increasing with a slope that is piecewise linear.

    g is a quadratic spline: between evenly spaced knots from the 1 % to the 99 % quantile of the log-odds it is
    parabolic, outside of them it goes on as a straight line. With the log-odds z of the affine map (Platt) it minimises
    `mean NLL + (1/N)·(∫ g″(z)² dz + (m̄ − 1)²)`, m̄ the mean slope at the knots, so that with few rows it is the affine
    map: a smoothing spline (Lucena 2018, arXiv 1809.07751, fits a natural cubic one, which need not increase) with the
    evenly spaced knots of penalised splines (Eilers and Marx 1996). Slopes lie between a hundredth and a hundred times
    that of the affine map; Platt's targets keep separated rows finite. It may move the decision. Calibrated logits:
    `(0, log-odds)`.

    Args:
        knots: (J,) strictly increasing log-odds.
        slopes: (J,) positive slopes of g at the knots.
        height: g at the first knot.

    >>> SplineScaling([-1.0, 1.0], [1.0, 2.0], -1.0)(np.array([[0.0, -2.0], [0.0, 1.0], [0.0, 2.0]])).tolist()
    [[0.0, -2.0], [0.0, 2.0], [0.0, 4.0]]
    """

    name = "spline"
    two_classes_only = True
    num_knots: ClassVar[int] = 8

    def __init__(self, knots: ArrayLike = (-1.0, 1.0), slopes: ArrayLike = (1.0, 1.0), height: float = -1.0) -> None:
        self.knots, self.slopes, self.height = np.asarray(knots, np.float64), np.asarray(slopes, np.float64), height
        if self.knots.ndim != 1 or self.knots.shape != self.slopes.shape or not 2 <= len(self.knots) <= self.num_knots:
            raise ValueError(
                f"knots and slopes must both be (J,) with 2 <= J <= {self.num_knots}, "
                f"got {self.knots.shape} and {self.slopes.shape}"
            )
        if not (np.isfinite(self.knots).all() and np.isfinite(self.slopes).all() and np.isfinite(height)):
            raise ValueError("knots, slopes and height must be finite")
        if (np.diff(self.knots) <= 0).any() or (self.slopes <= 0).any():
            raise ValueError("knots must be strictly increasing and slopes positive")

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        line = AffineScaling()
        line.fit_rows(scores, labels, rows)
        values = line.transform(scores)[:, 1]
        # Evenly spaced from quantile to quantile, at least 1 apart from first to last.
        ends = np.quantile(values, [_TAIL, 1.0 - _TAIL], weights=rows, method="inverted_cdf")
        middle, half = float(ends.mean()), max(0.5 * float(ends[1] - ends[0]), 0.5)
        knots = np.linspace(middle - half, middle + half, self.num_knots)
        design = np.concatenate([np.ones((len(values), 1)), _integrals(values, knots)], axis=1)
        low, high = np.full(design.shape[1], MIN_FACTOR), np.full(design.shape[1], MAX_FACTOR)
        low[0], high[0] = -np.inf, np.inf
        coefficients = bounded_newton(
            design,
            platt_targets(labels, rows),
            rows,
            bounds=(low, high),
            penalty=_roughness(knots) / effective_count(rows),
            start=np.append(knots[0], np.ones(len(knots))),
        )
        self.knots, self.slopes = (knots - line.intercept) / line.slope, coefficients[1:] * line.slope
        self.height = float(coefficients[0])

    def transform(self, scores: Floats) -> Floats:
        require_two_classes(self, scores)
        return pair(self.curve(scores[:, 1] - scores[:, 0]))

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return stacked_curves(stack, stacked_log_odds(stack, logits), [self]) @ [[0.0, 1.0]]

    def curve(self, log_odds: Floats) -> Floats:
        """g of log-odds (N,)."""
        return np.asarray(self.height + _integrals(log_odds, self.knots) @ self.slopes)


class QuadraticScaling(SplineScaling):
    """Two classes: calibrated log-odds b + w₁·x + w₂·x² of the log-odds x, a spline of two knots.

    `probmetrics` 1.3 (`BinaryLogisticCalibrator(type="quadratic")`) fits b, w₁ and w₂ by unpenalised logistic
    regression; with many rows and an increasing parabola this is the same one. Unlike there it cannot turn over: it
    increases from the 1 % to the 99 % quantile of the log-odds and is straight outside of them, where a parabola would
    answer the opposite; and separated rows give finite numbers.
    """

    name = "quadratic"
    num_knots = 2


def stacked_log_odds(stack: Stack, logits: Columns) -> Columns:
    """The difference (N, 1) of two logits, computed first: two large ones times a slope would each be rounded."""
    return stack.apply("Identity", logits @ [[-1.0], [1.0]])


def stacked_curves(stack: Stack, values: Columns, splines: Sequence[SplineScaling]) -> Columns:
    """The curves g of C splines, each of one of the columns (N, C).

    A piece between two knots adds t·(a + b·t) with t = clip(x, 0, 1), exact however large x is. Beyond the outer knots
    the curve goes on as a straight line, by how far a value lies over the last knot or under the first.
    """
    knots, slopes = np.stack([s.knots for s in splines]), np.stack([s.slopes for s in splines])
    widths = np.diff(knots)
    shares = stack.apply("HardSigmoid", values @ block_rows(1.0 / widths) - (knots[:, :-1] / widths).ravel())
    over = stack.apply("Relu", values - knots[:, -1])
    under = stack.apply("Relu", values * -1.0 + knots[:, 0])
    inside = shares @ block_rows(widths * slopes[:, :-1]).T
    bent = stack.apply("Square", shares) @ block_rows(0.5 * widths * np.diff(slopes)).T
    heights = np.array([spline.height for spline in splines])
    return inside + bent + over * slopes[:, -1] - under * slopes[:, 0] + heights


def block_rows(rows: Floats) -> Floats:
    """Rows (C, P) one after the other along a diagonal: (C, C·P).

    >>> block_rows(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]]
    """
    return np.asarray((np.eye(len(rows))[:, :, None] * rows[None]).reshape(len(rows), -1))


def _integrals(values: Floats, knots: Floats) -> Floats:
    """Integrals, from the first knot to each value, of a slope of 1 at one knot alone: (N, J)."""
    widths = np.diff(knots)
    share = np.clip((values[:, None] - knots[:-1]) / widths, 0.0, 1.0)
    integrals = np.zeros((len(values), len(knots)))
    integrals[:, :-1] += widths * share * (1.0 - 0.5 * share)
    integrals[:, 1:] += widths * 0.5 * np.square(share)
    integrals[:, 0] += np.minimum(values - knots[0], 0.0)
    integrals[:, -1] += np.maximum(values - knots[-1], 0.0)
    return integrals


def _roughness(knots: Floats) -> Floats:
    """∫ g″² + (mean slope − 1)² as a matrix (J + 1, J + 1) of height and slopes; the latter for equal log-odds."""
    count = len(knots)
    bends = np.diff(np.eye(count), axis=0)
    penalty = np.zeros((count + 1, count + 1))
    penalty[1:, 1:] = bends.T @ (bends / np.diff(knots)[:, None]) + 1.0 / count**2
    return penalty
