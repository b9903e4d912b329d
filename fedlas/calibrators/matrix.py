"""Structured matrix scaling: a penalised matrix over the classes, which falls back to the temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import Calibrator, Chain, Floats, Parameters, centred, checked, effective_count
from fedlas.calibrators.multinomial import MatrixMap, fit_logit_map
from fedlas.calibrators.temperature import TemperatureScaling

if TYPE_CHECKING:
    import onnx

#: Multiplications per pass (N·K²) and classes above which fitting would take minutes.
MAX_PRODUCT, MAX_CLASSES = 200_000_000, 256


class MatrixScaling(Calibrator):
    """s̃W + b with logits s̃ less their row mean; W = (I + D + M)/T, a temperature, a diagonal and the rest.

    Structured matrix scaling (Berta, Holzmüller, Jordan and Bach, arXiv 2511.03685): the temperature T is fitted first
    and unpenalised, then `mean NLL + λ·(‖D‖² + ‖b‖²) + (K − 1)·λ·‖M‖²` with λ = K/N is minimised, so that with few
    rows per parameter the map is the temperature. Beside theirs (the package `probmetrics`, ridge penalty): ours takes
    the row mean off the logits, so that logits and log-probabilities give the same map; its temperature is the plain
    one, not mixed with a constant; it is solved by Newton's method to the minimum, in NumPy; rows may have weights.
    """

    name = "structured_matrix"

    def __init__(self, matrix: ArrayLike = ((1.0, 0.0), (0.0, 1.0)), offset: ArrayLike = (0.0, 0.0)) -> None:
        self.matrix, self.offset = np.asarray(matrix, np.float64), np.asarray(offset, np.float64)
        if self.offset.ndim != 1 or len(self.offset) < 2 or self.matrix.shape != 2 * self.offset.shape:
            raise ValueError(
                f"matrix and offset must be (K, K) and (K,), got {self.matrix.shape} and {self.offset.shape}"
            )
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.offset).all()):
            raise ValueError("matrix and offset must be finite")

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        scores, labels, rows = checked(logits, targets, weights)
        num_rows, num_classes = scores.shape
        if num_classes > MAX_CLASSES or num_rows * num_classes**2 > MAX_PRODUCT:
            raise ValueError(
                f"MatrixScaling needs logits with K <= {MAX_CLASSES} and N·K² <= {MAX_PRODUCT}, got {scores.shape}"
            )
        temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        z = centred(scores) / temperature
        theta = fit_logit_map(MatrixMap(z), z, labels, rows, _penalty(effective_count(rows), num_classes))
        self.matrix, self.offset = (np.eye(num_classes) + theta[:-1]) / temperature, theta[-1]
        return self

    def __call__(self, logits: ArrayLike) -> Floats:
        scores = centred(logits)
        if scores.shape[1] != len(self.offset):
            raise ValueError(f"logits must have {len(self.offset)} columns, got {scores.shape}")
        calibrated: Floats = scores @ self.matrix + self.offset
        return calibrated

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return num_classes * (num_classes + 1)

    def parameters(self) -> Parameters:
        return {"matrix": self.matrix.tolist(), "offset": self.offset.tolist()}

    @classmethod
    def _restore(cls, parameters: Parameters) -> MatrixScaling:
        return cls(parameters["matrix"], parameters["offset"])

    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        chain = Chain(input_name)
        chain.centre(len(self.offset))
        chain.step("MatMul", chain.constant("matrix", self.matrix), result="product")
        chain.step("Add", chain.constant("offset", self.offset), result="sum")
        return chain.end(output_name)


def _penalty(num_rows: float, num_classes: int) -> Floats:
    """λ = K/N on diagonal and offset, (K − 1)·λ on everything else; shape (K + 1, K)."""
    strength = num_classes / num_rows
    penalty = np.full((num_classes + 1, num_classes), (num_classes - 1) * strength)
    penalty[np.arange(num_classes), np.arange(num_classes)] = strength
    penalty[-1] = strength
    return penalty
