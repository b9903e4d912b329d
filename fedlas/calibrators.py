"""Post-hoc calibrators: maps from logits to logits that can enter an ONNX graph; they know no network.

Each is fitted by maximum likelihood in float64 on rows that the network has not seen. Where the rows are
perfectly separated no maximum exists; Platt's targets (as if one more row had been wrong, Platt 1999) then
keep it finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]
Parameters = dict[str, float | list[float]]

#: No temperature, and no slope of an affine map, leaves this range.
LOWEST, HIGHEST = 0.01, 100.0

_PREFIX = "fedlas_calibrator_"


def softmax(logits: ArrayLike) -> Floats:
    """Rows of probabilities (N, K) float64 for logits (N, K).

    >>> softmax([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    scores = np.asarray(logits, dtype=np.float64)
    weights: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


class Calibrator(ABC):
    """Maps logits (N, K) to calibrated logits (N, K), whose softmax are the probabilities."""

    name: ClassVar[str]

    @abstractmethod
    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        """Fit on logits (N, K) and class indices (N,), rows weighted by `weights` (N,); returns itself.

        Raises:
            ValueError: shapes do not fit, logits are not finite, targets are no class indices, no rows.
        """

    @abstractmethod
    def __call__(self, logits: ArrayLike) -> Floats:
        """Calibrated logits (N, K) float64 for logits (N, K)."""

    @abstractmethod
    def parameters(self) -> Parameters:
        """What was fitted, ready for JSON and for `from_parameters`."""

    @classmethod
    @abstractmethod
    def _restore(cls, parameters: Mapping[str, Any]) -> Calibrator: ...

    @abstractmethod
    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Nodes and initialisers that compute this map in float32, in operators unchanged since opset 7."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters().items())})"


class Identity(Calibrator):
    """Leaves the logits as they are: the uploaded model as it came."""

    name = "identity"

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        return self

    def __call__(self, logits: ArrayLike) -> Floats:
        return np.asarray(logits, dtype=np.float64)

    def parameters(self) -> Parameters:
        return {}

    @classmethod
    def _restore(cls, parameters: Mapping[str, Any]) -> Identity:
        return cls()

    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        from onnx import helper

        return [helper.make_node("Identity", [input_name], [output_name], name=f"{_PREFIX}identity")], []


class TemperatureScaling(Calibrator):
    """logits / T with one T > 0 for all rows (Guo et al. 2017, arXiv 1706.04599).

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> fitted = TemperatureScaling().fit(logits, [0, 0, 0, 1])  # says 98 %, is right in 75 %
    >>> round(float(softmax(fitted(logits))[0, 0]), 6)
    0.75
    """

    name = "temperature"

    def __init__(self, temperature: float = 1.0) -> None:
        if not (np.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
        self.temperature = float(temperature)

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        scores, labels, rows = _checked(logits, targets, weights)
        self.temperature = float(np.exp(-_log_inverse_temperature(scores, labels, rows)))
        return self

    def __call__(self, logits: ArrayLike) -> Floats:
        scaled: Floats = np.asarray(logits, dtype=np.float64) / self.temperature
        return scaled

    def parameters(self) -> Parameters:
        return {"temperature": self.temperature}

    @classmethod
    def _restore(cls, parameters: Mapping[str, Any]) -> TemperatureScaling:
        return cls(float(parameters["temperature"]))

    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        from onnx import helper, numpy_helper

        constant = f"{_PREFIX}temperature"
        node = helper.make_node("Div", [input_name, constant], [output_name], name=f"{_PREFIX}divide")
        return [node], [numpy_helper.from_array(np.array(self.temperature, dtype=np.float32), constant)]


class AffineScaling(Calibrator):
    """Two classes: calibrated log-odds = a·(s₁ − s₀) + b with a > 0 (Platt 1999).

    The intercept mends a shifted base rate, which no temperature can. Calibrated logits: `(0, log-odds)`.
    """

    name = "affine"

    def __init__(self, slope: float = 1.0, intercept: float = 0.0) -> None:
        if not (np.isfinite(slope) and slope > 0 and np.isfinite(intercept)):
            raise ValueError(f"slope must be positive and both finite, got slope={slope!r}, intercept={intercept!r}")
        self.slope, self.intercept = float(slope), float(intercept)

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        scores, labels, rows = _checked(logits, targets, weights)
        if scores.shape[1] != 2:
            raise ValueError(f"AffineScaling needs logits (N, 2), got {scores.shape}")
        log_odds = scores[:, 1] - scores[:, 0]
        self.slope, self.intercept = _logistic_line(log_odds, _platt_targets(labels, rows), rows)
        return self

    def __call__(self, logits: ArrayLike) -> Floats:
        scores = np.asarray(logits, dtype=np.float64)
        log_odds = self.slope * (scores[:, 1] - scores[:, 0]) + self.intercept
        return np.stack([np.zeros_like(log_odds), log_odds], axis=1)

    def parameters(self) -> Parameters:
        return {"slope": self.slope, "intercept": self.intercept}

    @classmethod
    def _restore(cls, parameters: Mapping[str, Any]) -> AffineScaling:
        return cls(float(parameters["slope"]), float(parameters["intercept"]))

    def to_onnx(self, input_name: str, output_name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        from onnx import helper, numpy_helper

        matrix = np.array([[0.0, -self.slope], [0.0, self.slope]], dtype=np.float32)
        offset = np.array([0.0, self.intercept], dtype=np.float32)
        product = f"{_PREFIX}product"
        nodes = [
            helper.make_node("MatMul", [input_name, f"{_PREFIX}matrix"], [product], name=f"{_PREFIX}multiply"),
            helper.make_node("Add", [product, f"{_PREFIX}offset"], [output_name], name=f"{_PREFIX}add"),
        ]
        return nodes, [
            numpy_helper.from_array(matrix, f"{_PREFIX}matrix"),
            numpy_helper.from_array(offset, f"{_PREFIX}offset"),
        ]


CALIBRATORS: dict[str, type[Calibrator]] = {c.name: c for c in (Identity, TemperatureScaling, AffineScaling)}


def from_parameters(name: str, parameters: Mapping[str, Any]) -> Calibrator:
    """The calibrator called `name` with what `parameters()` once returned.

    >>> from_parameters("temperature", {"temperature": 2.0})
    TemperatureScaling(temperature=2.0)
    """
    if name not in CALIBRATORS:
        raise ValueError(f"name must be one of {sorted(CALIBRATORS)}, got {name!r}")
    return CALIBRATORS[name]._restore(parameters)


def _checked(
    logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, NDArray[np.int64], Floats]:
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


def _log_inverse_temperature(scores: Floats, labels: NDArray[np.int64], rows: Floats) -> float:
    """The root u of d NLL / d beta at beta = exp(u): Newton steps inside a bracket that only shrinks.

    NLL is convex in beta = 1/T, so its derivative `E_p[s] − s_y` only grows and the root is unique.
    """
    centred = scores - scores.max(axis=1, keepdims=True)
    wanted = float(rows @ centred[np.arange(len(labels)), labels])
    if wanted == 0.0:  # every row is right: the NLL falls for ever as T goes to 0
        doubt = 1.0 / (len(labels) + 2.0)
        wanted = float(doubt * (rows @ centred.mean(axis=1)))
    low, high = np.log(1.0 / HIGHEST), np.log(1.0 / LOWEST)
    u = 0.0
    for _ in range(100):
        beta = np.exp(u)
        slope, curvature = _moments(centred, rows, beta)
        excess = slope - wanted
        if excess == 0.0:  # also where all logits are equal, and every temperature is as good as 1
            break
        low, high = (low, u) if excess > 0 else (u, high)
        step = u - excess / (curvature * beta) if curvature > 0 else np.inf
        new = step if low < step < high else 0.5 * (low + high)
        if abs(new - u) < 1e-12:
            break
        u = new
    return float(u)


def _moments(centred: Floats, rows: Floats, beta: float) -> tuple[float, float]:
    """Mean over the rows of the mean and the variance of a row's logits under softmax(beta · logits)."""
    weights = np.exp(beta * centred)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = np.einsum("nk,nk->n", weights, centred)
    variance = np.einsum("nk,nk,nk->n", weights, centred, centred) - mean**2
    return float(rows @ mean), float(rows @ variance)


def _platt_targets(labels: NDArray[np.int64], rows: Floats) -> Floats:
    """(N₊ + 1)/(N₊ + 2) for positives and 1/(N₋ + 2) for negatives: the best line is always finite."""
    positives = float(rows @ labels) * len(labels)
    negatives = len(labels) - positives
    return np.where(labels == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))


def _logistic_line(x: Floats, soft_targets: Floats, rows: Floats) -> tuple[float, float]:
    """Slope (in its bounds) and intercept of a logistic regression of soft targets (N,) on x (N,)."""
    centre, scale = float(rows @ x), float(np.sqrt(rows @ (x - rows @ x) ** 2)) or 1.0
    design = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)
    line = _newton(design, np.zeros_like(x), soft_targets, rows)
    slope = float(line[0]) / scale
    if LOWEST <= slope <= HIGHEST:
        return slope, float(line[1]) - slope * centre
    slope = float(np.clip(slope, LOWEST, HIGHEST))
    intercept = _newton(design[:, 1:], slope * x, soft_targets, rows)
    return slope, float(intercept[0])


def _newton(design: Floats, offset: Floats, soft_targets: Floats, rows: Floats) -> Floats:
    """Coefficients (P,) of a logistic regression with a fixed offset, by damped Newton steps."""

    def loss(coefficients: Floats) -> float:
        log_odds = offset + design @ coefficients
        return float(rows @ (np.logaddexp(0.0, log_odds) - soft_targets * log_odds))

    coefficients = np.zeros(design.shape[1])
    for _ in range(100):
        positive = 0.5 * (1.0 + np.tanh(0.5 * (offset + design @ coefficients)))
        gradient = design.T @ (rows * (positive - soft_targets))
        hessian = (design.T * (rows * positive * (1.0 - positive))) @ design
        step = np.linalg.solve(hessian + 1e-12 * np.eye(len(coefficients)), gradient)
        size, here = 1.0, loss(coefficients)
        while loss(coefficients - size * step) > here and size > 1e-8:
            size /= 2.0
        coefficients = coefficients - size * step
        if np.abs(gradient).max() < 1e-12:
            break
    return coefficients
