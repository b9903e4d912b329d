"""Affine scaling: a line through the log-odds of two classes."""

from __future__ import annotations

import numpy as np

from fedlas.calibrators.base import HOTTEST, Chain, Floats, Ints, LogitsCalibrator, pair
from fedlas.calibrators.logistic_regression import logistic_line, platt_targets


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
        line = logistic_line(column, platt_targets(labels, rows), rows, lowest=1.0 / HOTTEST)
        self.slope, self.intercept = float(line[0]), float(line[1])

    def transform(self, scores: Floats) -> Floats:
        return pair(self.slope * (scores[:, 1] - scores[:, 0]) + self.intercept)

    def append_nodes(self, chain: Chain) -> None:
        # The difference comes first: two large logits times a slope would each be rounded.
        chain.step("MatMul", chain.constant("difference", [[-1.0], [1.0]]), result="log_odds")
        chain.step("MatMul", chain.constant("to_pair", [[0.0, self.slope]]), result="product")
        chain.step("Add", chain.constant("offset", [0.0, self.intercept]), result="sum")
