"""Beta calibration of two classes: the two tails of the log-odds get slopes of their own."""

from __future__ import annotations

import numpy as np

from fedlas.calibrators.base import (
    LOWEST,
    Chain,
    Floats,
    Ints,
    LogitsCalibrator,
    log_softmax,
    pair,
)
from fedlas.calibrators.logistic_regression import logistic_line, platt_targets
from fedlas.calibrators.temperature import TemperatureScaling


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
        line = logistic_line(columns, platt_targets(labels, rows), rows, lowest=LOWEST)
        self.a, self.b, self.c = map(float, line)

    def transform(self, scores: Floats) -> Floats:
        logs = log_softmax(scores / self.temperature)
        return pair(self.a * logs[:, 1] - self.b * logs[:, 0] + self.c)

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Div", chain.constant("temperature", self.temperature), result="divided")
        chain.step("LogSoftmax", result="logs", axis=1)
        chain.step("MatMul", chain.constant("matrix", [[0.0, -self.b], [0.0, self.a]]), result="product")
        chain.step("Add", chain.constant("offset", [0.0, self.c]), result="sum")
