"""Floored scores: probabilities below a floor are raised before a calibrator sees their logarithms.

Naive Bayes and other saturated models say log-odds of a thousand and are wrong all the same: a handful of such rows
then decides every slope. With ε added, log(softmax(s) + ε) keeps the order of the classes and has no such rows.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import Calibrator, Chain, Floats, OnnxPart, Parameters, softmax

#: The spacing of float32 at 1, at which scikit-learn and others cut probabilities.
EPSILON = float(np.finfo(np.float32).eps)


class Floored(Calibrator):
    """Another calibrator, on log(softmax(logits) + ε).

    >>> from fedlas.calibrators import TemperatureScaling
    >>> softmax(Floored(TemperatureScaling(2.0))([[900.0, 0.0]])).round(4).tolist()  # √ε against 1
    [[0.9997, 0.0003]]
    """

    name = "floored"

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator
        self.keeps_order = calibrator.keeps_order

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        self.calibrator.fit(floored(logits), targets, weights=weights)
        return self

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        return self.calibrator(floored(logits), features)

    def parameters(self) -> Parameters:
        return {"calibrator": {"name": self.calibrator.name, "parameters": self.calibrator.parameters()}}

    def to_onnx(self, logits_name: str, output_name: str, features_name: str = "features") -> OnnxPart:
        chain = Chain(logits_name)
        chain.step("Softmax", result="floored_probs", axis=1)
        chain.step("Add", chain.constant("floored_epsilon", EPSILON), result="floored_sum")
        chain.step("Log", result="floored_logits")
        nodes, constants = self.calibrator.to_onnx(chain.last, output_name, features_name)
        return [*chain.nodes, *nodes], [*chain.constants, *constants]


def floored(logits: ArrayLike) -> Floats:
    """log(softmax + ε) of logits (N, K)."""
    return np.asarray(np.log(softmax(logits) + EPSILON), np.float64)


def is_saturated(logits: ArrayLike) -> bool:
    """Whether more than a hundredth of the rows (N, K) give some class less than ε."""
    return bool(np.mean(softmax(logits).min(axis=1) < EPSILON) > 0.01)
