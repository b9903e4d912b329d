"""Beta calibration of two classes: the two tails of the log-odds get slopes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import Calibrator, Chain, Floats, Parameters, checked, log_softmax
from fedlas.calibrators.logistic import bounded_line, platt_targets
from fedlas.calibrators.temperature import TemperatureScaling

if TYPE_CHECKING:
    import onnx


class BetaScaling(Calibrator):
    """Two classes: calibrated log-odds = a·ln p − b·ln(1 − p) + c with a, b > 0 and p = softmax(logits / T)₁.

    Kull, Silva Filho and Flach 2017 ("Beta calibration", AISTATS), of whose family the affine map is the part a = b.
    The temperature T is fitted first, only so that ln p and ln(1 − p) have a useful size. Fitted by maximum likelihood
    with Platt's targets, which keep perfectly separated rows finite; a and b stay at or above 0.01, so that the map
    is strictly increasing. Calibrated logits: `(0, log-odds)`.

    >>> BetaScaling(a=1.0, b=1.0, c=0.5)(np.array([[0.0, 2.0]])).round(6).tolist()
    [[0.0, 2.5]]
    """

    name = "beta"

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0, temperature: float = 1.0) -> None:
        if not (np.isfinite([a, b, c, temperature]).all() and min(a, b, temperature) > 0):
            raise ValueError(
                f"a, b and temperature must be positive and all finite, got {a=}, {b=}, {c=}, {temperature=}"
            )
        self.a, self.b, self.c, self.temperature = float(a), float(b), float(c), float(temperature)

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        scores, labels, rows = checked(logits, targets, weights)
        if scores.shape[1] != 2:
            raise ValueError(f"BetaScaling needs logits (N, 2), got {scores.shape}")
        self.temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        logs = log_softmax(scores / self.temperature)
        columns = np.stack([logs[:, 1], -logs[:, 0]], axis=1)
        self.a, self.b, self.c = map(float, bounded_line(columns, platt_targets(labels, rows), rows))
        return self

    def __call__(self, logits: ArrayLike) -> Floats:
        logs = log_softmax(np.asarray(logits, dtype=np.float64) / self.temperature)
        log_odds = self.a * logs[:, 1] - self.b * logs[:, 0] + self.c
        return np.stack([np.zeros_like(log_odds), log_odds], axis=1)

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return 3

    def parameters(self) -> Parameters:
        return {"a": self.a, "b": self.b, "c": self.c, "temperature": self.temperature}

    @classmethod
    def _restore(cls, parameters: Parameters) -> BetaScaling:
        return cls(*(float(parameters[name]) for name in ("a", "b", "c", "temperature")))

    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        chain = Chain(input_name)
        chain.step("Div", chain.constant("temperature", self.temperature), result="divided")
        chain.step("LogSoftmax", result="logs", axis=1)
        chain.step("MatMul", chain.constant("matrix", [[0.0, -self.b], [0.0, self.a]]), result="product")
        chain.step("Add", chain.constant("offset", [0.0, self.c]), result="sum")
        return chain.end(output_name)
