"""Affine scaling: a line through the log-odds of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import Calibrator, Chain, Floats, Parameters, checked
from fedlas.calibrators.logistic import logistic_line, platt_targets

if TYPE_CHECKING:
    import onnx


class AffineScaling(Calibrator):
    """Two classes: calibrated log-odds = a·(s₁ − s₀) + b with a > 0 (Platt 1999).

    The intercept mends a shifted base rate, which no temperature can. Calibrated logits: `(0, log-odds)`.
    """

    name = "affine"

    def __init__(self, slope: float = 1.0, intercept: float = 0.0) -> None:
        if not (np.isfinite(slope) and slope > 0 and np.isfinite(intercept)):
            raise ValueError(f"slope must be positive and both finite, got slope={slope!r}, intercept={intercept!r}")
        self.slope, self.intercept = float(slope), float(intercept)

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        scores, labels, rows = checked(logits, targets, weights)
        if scores.shape[1] != 2:
            raise ValueError(f"AffineScaling needs logits (N, 2), got {scores.shape}")
        log_odds = scores[:, 1] - scores[:, 0]
        self.slope, self.intercept = logistic_line(log_odds, platt_targets(labels, rows), rows)
        return self

    def __call__(self, logits: ArrayLike) -> Floats:
        scores = np.asarray(logits, dtype=np.float64)
        log_odds = self.slope * (scores[:, 1] - scores[:, 0]) + self.intercept
        return np.stack([np.zeros_like(log_odds), log_odds], axis=1)

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return 2

    def parameters(self) -> Parameters:
        return {"slope": self.slope, "intercept": self.intercept}

    @classmethod
    def _restore(cls, parameters: Parameters) -> AffineScaling:
        return cls(float(parameters["slope"]), float(parameters["intercept"]))

    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        chain = Chain(input_name)
        matrix = [[0.0, -self.slope], [0.0, self.slope]]
        chain.step("MatMul", chain.constant("matrix", matrix), result="product")
        chain.step("Add", chain.constant("offset", [0.0, self.intercept]), result="sum")
        return chain.end(output_name)
