"""Two classes: a line through the log-odds (affine), and slopes of their own for its two tails (beta)."""

from __future__ import annotations

import numpy as np

from fedlas.calibrators.base import (
    MAX_TEMPERATURE,
    MIN_FACTOR,
    Chain,
    Floats,
    Ints,
    LogitsCalibrator,
    log_softmax,
    pair,
)
from fedlas.calibrators.regression import logistic_line, platt_targets
from fedlas.calibrators.temperature import TemperatureScaling


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

    def append_nodes(self, chain: Chain) -> None:
        # The difference comes first: two large logits times a slope would each be rounded.
        chain.step("MatMul", chain.constant("difference", [[-1.0], [1.0]]), result="log_odds")
        chain.step("MatMul", chain.constant("to_pair", [[0.0, self.slope]]), result="product")
        chain.step("Add", chain.constant("offset", [0.0, self.intercept]), result="sum")


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

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Div", chain.constant("temperature", self.temperature), result="divided")
        chain.step("LogSoftmax", result="logs", axis=1)
        chain.step("MatMul", chain.constant("matrix", [[0.0, -self.b], [0.0, self.a]]), result="product")
        chain.step("Add", chain.constant("offset", [0.0, self.c]), result="sum")
