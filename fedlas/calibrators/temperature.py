"""Temperature scaling, and the identity; neither moves a decision."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from fedlas.calibrators.base import HOTTEST, LOWEST, Chain, Floats, Ints, LogitsCalibrator, effective_count

#: Standard deviation of the log temperature that is expected before any row is seen: chosen, not measured.
PRIOR = 0.5


class Identity(LogitsCalibrator):
    """Leaves the logits as they are: the uploaded model as it came."""

    name = "identity"
    keeps_order = True

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        pass

    def transform(self, scores: Floats) -> Floats:
        return scores

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

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Div", chain.constant("temperature", self.temperature), result="divided")


class ShrunkenTemperature(TemperatureScaling):
    """logits / T with log T shrunk towards 0, for a few dozen rows: the mode under a normal prior of log T.

    Twenty rows that happen to be right would ask for a temperature near 0, and a few wrong ones for a very high one.

    >>> sure = np.array([[5.0, 0.0]] * 20)  # says 99 %, is right in 15 of 20 rows
    >>> targets = [0] * 15 + [1] * 5
    >>> [round(kind().fit(sure, targets).temperature, 2) for kind in (TemperatureScaling, ShrunkenTemperature)]
    [4.55, 2.74]
    """

    name = "shrunken_temperature"

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        centred, count = scores - scores.max(axis=1, keepdims=True), effective_count(rows)
        index = np.arange(len(labels))

        def penalised(u: float) -> float:
            logits = np.exp(-u) * centred
            nll = np.log(np.exp(logits).sum(axis=1)) - logits[index, labels]
            return float(rows @ nll) + u * u / (2 * PRIOR**2 * count)

        found = minimize_scalar(penalised, bounds=(np.log(LOWEST), np.log(HOTTEST)), method="bounded")
        self.temperature = float(np.exp(found.x))


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
