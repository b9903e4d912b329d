"""Vector scaling: a factor and an offset for every class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import MAX_LOGITS, Calibrator, Chain, Floats, Parameters, centred, checked, effective_count
from fedlas.calibrators.multinomial import DiagonalMap, fit_logit_map
from fedlas.calibrators.temperature import TemperatureScaling

if TYPE_CHECKING:
    import onnx


class VectorScaling(Calibrator):
    """s̃∘v + b with logits s̃ less their row mean, a factor v and an offset b per class (Guo et al. 2017, 1706.04599).

    Mends base rates that have shifted. Penalised: with the temperature T fitted first it minimises
    `mean NLL + (K/N)·(‖Tv − 1‖² + ‖b‖²)`, so that with few rows per class it is the temperature and a class without
    rows keeps a finite offset (the strengths are those of arXiv 2511.03685).
    """

    name = "vector"

    def __init__(self, scale: ArrayLike = (1.0, 1.0), offset: ArrayLike = (0.0, 0.0)) -> None:
        self.scale, self.offset = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
        if self.scale.ndim != 1 or self.scale.shape != self.offset.shape or len(self.scale) < 2:
            raise ValueError(f"scale and offset must both be (K,), got {self.scale.shape} and {self.offset.shape}")
        if not (np.isfinite(self.scale).all() and np.isfinite(self.offset).all()):
            raise ValueError("scale and offset must be finite")

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        scores, labels, rows = checked(logits, targets, weights)
        if scores.size > MAX_LOGITS:
            raise ValueError(f"VectorScaling needs logits with N·K <= {MAX_LOGITS}, got {scores.shape}")
        num_classes = scores.shape[1]
        temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        z = centred(scores) / temperature
        penalty = np.full((2, num_classes), num_classes / effective_count(rows))
        factors, self.offset = fit_logit_map(DiagonalMap(z), z, labels, rows, penalty)
        self.scale = (1.0 + factors) / temperature
        return self

    def __call__(self, logits: ArrayLike) -> Floats:
        scores = centred(logits)
        if scores.shape[1] != len(self.scale):
            raise ValueError(f"logits must have {len(self.scale)} columns, got {scores.shape}")
        calibrated: Floats = scores * self.scale + self.offset
        return calibrated

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return 2 * num_classes

    def parameters(self) -> Parameters:
        return {"scale": self.scale.tolist(), "offset": self.offset.tolist()}

    @classmethod
    def _restore(cls, parameters: Parameters) -> VectorScaling:
        return cls(parameters["scale"], parameters["offset"])

    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        chain = Chain(input_name)
        chain.centre(len(self.scale))
        chain.step("Mul", chain.constant("scale", self.scale), result="product")
        chain.step("Add", chain.constant("offset", self.offset), result="sum")
        return chain.end(output_name)
