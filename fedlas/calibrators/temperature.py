"""Temperature scaling, the identity, and a temperature with a uniform mix; none moves a decision.

A single temperature has to answer two questions at once: how sensitive the confidences are, and how often a row that
the model is certain of is wrong all the same (a wrong label, another kind of input). Such rows cost most of the NLL, so
the temperature is raised for all until they are afforded, and the ordinary rows become underconfident. With
p = softmax(s/T) the mixture is (1 − w)·p + w/K; w answers the second question.
"""

from __future__ import annotations

import numpy as np

from fedlas.calibrators.base import (
    MAX_TEMPERATURE,
    MIN_FACTOR,
    Chain,
    Floats,
    Ints,
    LogitsCalibrator,
    effective_count,
    log_softmax,
    softmax,
)

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
        self.temperature = float(
            np.clip(np.exp(-_log_inverse_temperature(scores, labels, rows)), MIN_FACTOR, MAX_TEMPERATURE)
        )

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
        from scipy.optimize import (
            minimize_scalar,
        )  # loaded where calibrators are fitted: API and workers start without it

        centred, count = scores - scores.max(axis=1, keepdims=True), effective_count(rows)
        index = np.arange(len(labels))

        def penalised(u: float) -> float:
            logits = np.exp(-u) * centred
            nll = np.log(np.exp(logits).sum(axis=1)) - logits[index, labels]
            return float(rows @ nll) + u * u / (2 * PRIOR**2 * count)

        found = minimize_scalar(penalised, bounds=(np.log(MIN_FACTOR), np.log(MAX_TEMPERATURE)), method="bounded")
        self.temperature = float(np.exp(found.x))


def _log_inverse_temperature(scores: Floats, labels: Ints, rows: Floats) -> float:
    """The root u of d NLL / d beta at beta = 1/T = exp(u), in the bounds of T; the NLL is convex in beta."""
    from scipy.optimize import brentq  # loaded where calibrators are fitted: API and workers start without it

    centred = scores - scores.max(axis=1, keepdims=True)
    wanted = float(rows @ centred[np.arange(len(labels)), labels])
    if wanted == 0.0:  # every row is right: the NLL falls for ever as T goes to 0
        wanted = float((1.0 / (effective_count(rows) + 2.0)) * (rows @ centred.mean(axis=1)))

    if not centred.any():  # all logits are equal, and every temperature is as good as 1
        return 0.0
    low, high = np.log(1.0 / MAX_TEMPERATURE), np.log(1.0 / MIN_FACTOR)
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


#: The uniform mix is at most half of an answer; a share under the smallest is none (its logarithm must fit float32).
MAX_SHARE = 0.5
MIN_SHARE = 1e-6
#: How far the mixture's log temperature is looked for under and over that of a temperature alone.
_COOLER = 2.0
_HOTTER = 0.5


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
        if not (np.isfinite(temperature) and temperature > 0 and 0 <= share <= MAX_SHARE):
            raise ValueError(
                f"temperature must be positive and finite, share in [0, {MAX_SHARE}], got {temperature!r}, {share!r}"
            )
        self.temperature, self.share, self.num_classes = float(temperature), float(share), int(num_classes)

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        from scipy.optimize import (
            minimize_scalar,
        )  # loaded where calibrators are fitted: API and workers start without it

        alone = TemperatureScaling()
        alone.fit_rows(scores, labels, rows)
        start = -np.log(alone.temperature)
        low, high = max(np.log(1 / MAX_TEMPERATURE), start - _HOTTER), min(np.log(1 / MIN_FACTOR), start + _COOLER)
        u = minimize_scalar(
            lambda v: _best_share(scores, labels, rows, v)[1],
            bounds=(low, high),
            method="bounded",
            options={"xatol": 1e-8},
        ).x
        share, nll = _best_share(scores, labels, rows, u)
        plain = -(rows @ log_softmax(np.exp(start) * scores)[np.arange(len(labels)), labels])
        if share < MIN_SHARE or nll >= plain:
            share, u = 0.0, start
        self.temperature, self.share, self.num_classes = float(np.exp(-u)), float(share), scores.shape[1]

    def transform(self, scores: Floats) -> Floats:
        return mixed(scores / self.temperature, self.share)

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Div", chain.constant("temperature", self.temperature), result="divided")
        if self.share:
            add_uniform_mix(chain, self.share, self.num_classes)


def mixed(logits: Floats, share: float) -> Floats:
    """log((1 − w)·softmax(s) + w/K) for logits (N, K) and a share w; the logits themselves where w is 0."""
    if share == 0.0:
        return logits
    return np.asarray(np.logaddexp(np.log1p(-share) + log_softmax(logits), np.log(share / logits.shape[1])))


def add_uniform_mix(chain: Chain, share: float, num_classes: int) -> None:
    """Append `mixed` as ONNX nodes to a chain that ends in logits (N, K)."""
    chain.step("Softmax", result="sure", axis=1)
    chain.step("Mul", chain.constant("certain_share", 1.0 - share), result="less_sure")
    chain.step("Add", chain.constant("uniform_share", share / num_classes), result="mixed")
    chain.step("Log", result="log_mixed")


def _best_share(scores: Floats, labels: Ints, rows: Floats, u: float) -> tuple[float, float]:
    """The share with the lowest NLL at log inverse temperature u, and that NLL: convex in the share, so bisected."""
    even = 1.0 / scores.shape[1]
    true = np.maximum(softmax(np.exp(u) * scores)[np.arange(len(labels)), labels], 1e-300)
    low, high = 0.0, MAX_SHARE
    if rows @ ((true - even) / true) >= 0:  # the slope without a mix: it only costs
        return 0.0, float(-(rows @ np.log(true)))
    for _ in range(50):
        share = 0.5 * (low + high)
        slope = rows @ ((true - even) / ((1 - share) * true + share * even))
        low, high = (share, high) if slope < 0 else (low, share)
    share = 0.5 * (low + high)
    return share, float(-(rows @ np.log((1 - share) * true + share * even)))
