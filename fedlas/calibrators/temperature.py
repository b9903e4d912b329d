"""Temperature scaling, and the identity; neither moves a decision."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from fedlas.calibrators.base import HOTTEST, LOWEST, Chain, Floats, Ints, LogitsCalibrator, effective_count


class Identity(LogitsCalibrator):
    """Leaves the logits as they are: the uploaded model as it came."""

    name = "identity"
    keeps_order = True

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        pass

    def transform(self, scores: Floats) -> Floats:
        return scores

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return 0

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Identity", result="identity")


class TemperatureScaling(LogitsCalibrator):
    """logits / T with one T > 0 for all rows (Guo et al. 2017, arXiv 1706.04599).

    >>> from fedlas.calibrators import softmax
    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> fitted = TemperatureScaling().fit(logits, [0, 0, 0, 1])  # says 98 %, is right in 75 %
    >>> round(float(softmax(fitted(logits))[0, 0]), 6)
    0.75
    """

    name = "temperature"
    keeps_order = True

    def __init__(self, temperature: float = 1.0) -> None:
        if not (np.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
        self.temperature = float(temperature)

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        found = np.exp(-_log_inverse_temperature(scores, labels, rows))
        self.temperature = float(np.clip(found, LOWEST, HOTTEST))

    def transform(self, scores: Floats) -> Floats:
        return scores / self.temperature

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return 1

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Div", chain.constant("temperature", self.temperature), result="divided")


def _log_inverse_temperature(scores: Floats, labels: Ints, rows: Floats) -> float:
    """The root u of d NLL / d beta at beta = exp(u), between the bounds of a temperature.

    NLL is convex in beta = 1/T, so its derivative `E_p[s] − s_y` only grows and the root is unique.
    """
    centred = scores - scores.max(axis=1, keepdims=True)
    wanted = float(rows @ centred[np.arange(len(labels)), labels])
    if wanted == 0.0:  # every row is right: the NLL falls for ever as T goes to 0
        doubt = 1.0 / (effective_count(rows) + 2.0)
        wanted = float(doubt * (rows @ centred.mean(axis=1)))

    if not centred.any():  # all logits are equal, and every temperature is as good as 1
        return 0.0
    low, high = np.log(1.0 / HOTTEST), np.log(1.0 / LOWEST)
    try:
        return float(brentq(_excess, low, high, args=(centred, rows, wanted), xtol=1e-12))
    except ValueError:  # the root lies beyond a bound
        return float(low if _excess(low, centred, rows, wanted) > 0 else high)


def _excess(u: float, centred: Floats, rows: Floats, wanted: float) -> float:
    """The derivative of the NLL. No closure: `brentq` leaves a cycle, which would hold its logits until it is found."""
    weights = np.exp(u) * centred
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return float(rows @ np.einsum("nk,nk->n", weights, centred)) - wanted
