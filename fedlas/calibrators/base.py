"""The base of post-hoc calibrators, and the checks and ONNX parts that they share.

Temperature scaling, the identity, and a temperature with a uniform mix; none moves a decision.

A single temperature has to answer two questions at once: how sensitive the confidences are, and how often a row that
the model is certain of is wrong all the same (a wrong label, another kind of input). Such rows cost most of the NLL, so
the temperature is raised for all until they are afforded, and the ordinary rows become underconfident. With
p = softmax(s/T) the mixture is (1 − w)·p + w/K; w answers the second question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import signature
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators.stack import Columns, OnnxPart, Stack
from fedlas.calibrators.stack import Floats as Floats

Ints = NDArray[np.int64]
Parameters = dict[str, Any]
#: No slope of a map of tempered log-odds leaves this range, and no temperature is lower.
MIN_FACTOR = 0.01
MAX_FACTOR = 100.0
#: No temperature is higher: logits of ±10,000, which exist, need about 1,000.
MAX_TEMPERATURE = 1e5
#: Logits (N·K numbers) above which a calibrator that iterates over all of them would take too long or too much memory.
MAX_LOGITS = 20_000_000


def softmax(logits: ArrayLike) -> Floats:
    """Rows of probabilities (N, K) float64 for logits (N, K).

    >>> softmax([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    scores = np.asarray(logits, dtype=np.float64)
    weights: Floats = scores - scores.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def log_softmax(logits: Floats) -> Floats:
    """Logarithms of `softmax(logits)` (N, K) that do not underflow."""
    centred = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(centred - np.log(np.exp(centred).sum(axis=1, keepdims=True)))


class Calibrator(ABC):
    """Maps logits (N, K) to calibrated logits (N, K), whose softmax are the probabilities."""

    name: ClassVar[str]
    #: True where the most probable class always stays the same, so that accuracy cannot change.
    keeps_order: bool = False
    #: True for a map of the log-odds of two classes, which refuses more.
    two_classes_only: ClassVar[bool] = False

    @abstractmethod
    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        """Fit on logits (N, K) and class indices (N,), rows weighted by `weights` (N,); returns itself.

        Raises:
            ValueError: shapes do not fit, logits are not finite, targets are no class indices, no rows.
        """

    @abstractmethod
    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        """Calibrated logits (N, K) float64 for logits (N, K); only `FeatureScaling` reads the features (N, D)."""

    def parameters(self) -> Parameters:
        """The arguments of the constructor that make this calibrator again, ready for JSON."""
        values = {name: getattr(self, name) for name in signature(type(self)).parameters}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @abstractmethod
    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        """Calibrated logits as columns of a stack; `features` is the name of the tensor (N, D)."""

    def to_onnx(self, logits: str, output: str, num_classes: int, features: str = "features") -> OnnxPart:
        """Nodes and initialisers from the tensor `logits` (N, K) to calibrated logits, as `Stack.end` writes them."""
        stack = Stack()
        return stack.end(self.stacked(stack, stack.given(logits, num_classes), features), output)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters().items())})"


class LogitsCalibrator(Calibrator):
    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        scores, labels, rows = checked(logits, targets, weights)
        if self.two_classes_only:
            require_two_classes(self, scores)
        self.fit_rows(scores, labels, rows)
        return self

    @abstractmethod
    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        """`fit` on checked logits (N, K), class indices (N,) and weights (N,) that sum to 1."""

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        return self.transform(np.asarray(logits, dtype=np.float64))

    @abstractmethod
    def transform(self, scores: Floats) -> Floats:
        """Calibrated logits (N, K) of logits (N, K)."""


def checked(logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Ints, Floats]:
    """Logits (N, K), labels (N,) and weights (N,) that sum to 1, or a ValueError that names the argument."""
    scores, labels = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if scores.ndim != 2 or scores.shape[0] == 0 or scores.shape[1] < 2:
        raise ValueError(f"logits must be (N, K) with N >= 1 and K >= 2, got {scores.shape}")
    if labels.shape != scores.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"targets must be {scores.shape[:1]} integers, got {labels.shape} of type {labels.dtype}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"targets must lie in 0..{scores.shape[1] - 1}, got {labels.min()}..{labels.max()}")
    if not np.isfinite(scores).all():
        raise ValueError("logits must be finite")
    rows = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    if rows.shape != labels.shape or not np.isfinite(rows).all() or rows.min() < 0 or rows.sum() <= 0:
        raise ValueError(f"weights must be {labels.shape}, finite, not negative and not all zero")
    return scores, labels.astype(np.int64), rows / rows.sum()


def require_two_classes(calibrator: Calibrator, logits: Floats) -> None:
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise ValueError(f"{type(calibrator).__name__} needs logits (N, 2), got {logits.shape}")


def pair(log_odds: Floats) -> Floats:
    """Logits (N, 2) whose softmax has these log-odds (N,): `(0, log-odds)`."""
    return np.stack([np.zeros_like(log_odds), log_odds], axis=1)


def effective_count(rows: Floats) -> float:
    """How many equal rows weigh as much as these (N,) that sum to 1 (Kish 1965): N where all are equal.

    >>> round(effective_count(np.array([0.5, 0.5, 0.0])), 9)
    2.0
    """
    return 1.0 / float(rows @ rows)


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

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return logits


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

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return logits * (1.0 / self.temperature)


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

        optimum = minimize_scalar(penalised, bounds=(np.log(MIN_FACTOR), np.log(MAX_TEMPERATURE)), method="bounded")
        self.temperature = float(np.exp(optimum.x))


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

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return stacked_mix(stack, logits * (1.0 / self.temperature), self.share)


def mixed(logits: Floats, share: float) -> Floats:
    """log((1 − w)·softmax(s) + w/K) for logits (N, K) and a share w; the logits themselves where w is 0."""
    if share == 0.0:
        return logits
    return np.asarray(np.logaddexp(np.log1p(-share) + log_softmax(logits), np.log(share / logits.shape[1])))


def stacked_mix(stack: Stack, logits: Columns, share: float) -> Columns:
    """`mixed` as columns of a stack."""
    if share == 0.0:
        return logits
    return stack.log(stack.softmax(logits) * (1.0 - share) + np.full(logits.width, share / logits.width))


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
