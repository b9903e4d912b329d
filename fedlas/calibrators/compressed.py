"""Compressed scores: what a saturated model says of its logits, at a scale on which they can be calibrated.

Naive Bayes takes dependent features for independent ones: it says log-odds of a thousand, or of 10¹⁰, and is wrong all
the same. A handful of such rows then decides every slope. Their order is worth something, so that a floor, which makes
them equal, loses more than it mends. −A·log(1 − log p / A) hardly changes log p near 0 and grows like a logarithm.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import Calibrator, Chain, Floats, OnnxPart, Parameters, log_softmax, softmax

#: Nats from which on log-probabilities are compressed rather than kept (chosen among 4 and 16 on four tables).
SCALE = 4.0
#: A class of a probability under this in more than so many of the rows: the spacing of float32 at 1.
_EPSILON, _SHARE = float(np.finfo(np.float32).eps), 0.01


class Compressed(Calibrator):
    """Another calibrator, on −A·log(1 − log p / A) for log-probabilities log p of the logits and A = `SCALE`.

    >>> from fedlas.calibrators import TemperatureScaling
    >>> Compressed(TemperatureScaling(2.0))([[1e10, 0.0], [1.0, 0.0]]).round(2).tolist()
    [[0.0, -43.28], [-0.15, -0.57]]
    """

    name = "compressed"

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator
        self.keeps_order = calibrator.keeps_order

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        self.calibrator.fit(compressed(logits), targets, weights=weights)
        return self

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        return self.calibrator(compressed(logits), features)

    def parameters(self) -> Parameters:
        return {"calibrator": {"name": self.calibrator.name, "parameters": self.calibrator.parameters()}}

    def to_onnx(self, logits_name: str, output_name: str, features_name: str = "features") -> OnnxPart:
        chain = Chain(logits_name)
        chain.step("LogSoftmax", result="compressed_logs", axis=1)
        chain.step("Mul", chain.constant("compressed_rate", -1 / SCALE), result="compressed_parts")
        chain.step("Add", chain.constant("compressed_one", 1.0), result="compressed_sums")
        chain.step("Log", result="compressed_sizes")
        chain.step("Mul", chain.constant("compressed_scale", -SCALE), result="compressed_logits")
        nodes, constants = self.calibrator.to_onnx(chain.last, output_name, features_name)
        return [*chain.nodes, *nodes], [*chain.constants, *constants]


def compressed(logits: ArrayLike) -> Floats:
    """−A·log(1 − log p / A) of logits (N, K), which keeps the order of the classes."""
    return np.asarray(-SCALE * np.log1p(-log_softmax(np.asarray(logits, np.float64)) / SCALE), np.float64)


def is_saturated(logits: ArrayLike) -> bool:
    """Whether more than a hundredth of the rows (N, K) say that some class is as good as impossible."""
    return bool(np.mean(softmax(logits).min(axis=1) < _EPSILON) > _SHARE)
