"""Mixture scaling: a temperature, and a small share of doubt that is spread evenly over the classes.

A single temperature has to answer two questions at once: how sensitive the confidences are, and how often a row that
the model is certain of is wrong all the same (a wrong label, another kind of input). Such rows cost most of the NLL, so
the temperature is raised for all until they are afforded, and the ordinary rows become underconfident. With
p = softmax(s/T) the mixture is (1 − w)·p + w/K; w answers the second question.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from fedlas.calibrators.base import HOTTEST, LOWEST, Chain, Floats, Ints, LogitsCalibrator, log_softmax, softmax
from fedlas.calibrators.temperature import TemperatureScaling

#: No more than half of every answer is doubt; a share under the smallest is none (its logarithm must fit float32).
MOST, LEAST = 0.5, 1e-6
#: How far the mixture's log temperature is looked for under and over that of a temperature alone.
_COOLER, _HOTTER = 2.0, 0.5


class MixtureScaling(LogitsCalibrator):
    """log((1 − w)·softmax(s/T) + w/K) with T > 0 and 0 ≤ w ≤ 1/2; w = 0 is a temperature.

    >>> logits = np.array([[9.0, 0.0]] * 9 + [[0.1, 0.0]] * 10)   # sure rows that are wrong once in nine
    >>> targets = [0] * 8 + [1] + [0, 1] * 5
    >>> round(float(softmax(MixtureScaling().fit(logits, targets)(logits))[0, 0]), 3)  # says what is true
    0.889
    """

    name = "mixture"
    keeps_order = True

    def __init__(self, temperature: float = 1.0, share: float = 0.0, num_classes: int = 2) -> None:
        if not (np.isfinite(temperature) and temperature > 0 and 0 <= share <= MOST):
            raise ValueError(
                f"temperature must be positive and finite, share in [0, {MOST}], got {temperature!r}, {share!r}"
            )
        self.temperature, self.share, self.num_classes = float(temperature), float(share), int(num_classes)

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        alone = TemperatureScaling()
        alone.fit_rows(scores, labels, rows)
        start = -np.log(alone.temperature)
        low, high = np.log(1 / HOTTEST), np.log(1 / LOWEST)
        low, high = max(low, start - _HOTTER), min(high, start + _COOLER)
        lowest = minimize_scalar(
            lambda v: _best_share(scores, labels, rows, v)[1],
            bounds=(low, high),
            method="bounded",
            options={"xatol": 1e-8},
        )
        u = float(lowest.x)
        share, nll = _best_share(scores, labels, rows, u)
        if share < LEAST or nll >= _plain_nll(scores, labels, rows, start):
            share, u = 0.0, start
        self.temperature, self.share, self.num_classes = float(np.exp(-u)), float(share), scores.shape[1]

    def transform(self, scores: Floats) -> Floats:
        return mixed(scores / self.temperature, self.share)

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Div", chain.constant("temperature", self.temperature), result="divided")
        if self.share:
            add_doubt(chain, self.share, self.num_classes)


def mixed(logits: Floats, share: float) -> Floats:
    """log((1 − w)·softmax(s) + w/K) for logits (N, K) and a share w; the logits themselves where w is 0."""
    if share == 0.0:
        return logits
    doubt = np.log(share / logits.shape[1])
    mixture: Floats = np.logaddexp(np.log1p(-share) + log_softmax(logits), doubt)
    return mixture


def add_doubt(chain: Chain, share: float, num_classes: int) -> None:
    """The same as ONNX nodes, appended to a chain that ends in logits (N, K)."""
    chain.step("Softmax", result="sure", axis=1)
    chain.step("Mul", chain.constant("certain_share", 1.0 - share), result="less_sure")
    chain.step("Add", chain.constant("doubt", share / num_classes), result="with_doubt")
    chain.step("Log", result="doubtful")


def _plain_nll(scores: Floats, labels: Ints, rows: Floats, u: float) -> float:
    logs = log_softmax(np.exp(u) * scores)
    return float(-(rows @ logs[np.arange(len(labels)), labels]))


def _best_share(scores: Floats, labels: Ints, rows: Floats, u: float) -> tuple[float, float]:
    """The share with the lowest NLL at log inverse temperature u, and that NLL: convex in the share, so bisected."""
    even = 1.0 / scores.shape[1]
    true = np.maximum(softmax(np.exp(u) * scores)[np.arange(len(labels)), labels], 1e-300)
    low, high = 0.0, MOST
    if rows @ ((true - even) / true) >= 0:  # the slope at no doubt: doubt only costs
        return 0.0, float(-(rows @ np.log(true)))
    for _ in range(50):
        share = 0.5 * (low + high)
        slope = rows @ ((true - even) / ((1 - share) * true + share * even))
        low, high = (share, high) if slope < 0 else (low, share)
    share = 0.5 * (low + high)
    return share, float(-(rows @ np.log((1 - share) * true + share * even)))
