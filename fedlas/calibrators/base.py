"""The base of post-hoc calibrators, and the checks and ONNX parts that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Parameters = dict[str, Any]
OnnxPart: TypeAlias = "tuple[list[onnx.NodeProto], list[onnx.TensorProto]]"
#: No slope of a map of tempered log-odds leaves this range, and no temperature is lower.
MIN_FACTOR = 0.01
MAX_FACTOR = 100.0
#: No temperature is higher: logits of ±10,000, which exist, need about 1,000.
MAX_TEMPERATURE = 1e5
#: Logits (N·K numbers) above which a calibrator that iterates over all of them would take too long or too much memory.
MAX_LOGITS = 20_000_000

PREFIX = "fedlas_calibrator_"


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
    def to_onnx(self, logits_name: str, output_name: str, features_name: str = "features") -> OnnxPart:
        """Nodes and initialisers that compute this map in float32, in operators unchanged since opset 7."""

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

    def to_onnx(self, logits_name: str, output_name: str, features_name: str = "features") -> OnnxPart:
        chain = Chain(logits_name)
        self.append_nodes(chain)
        return chain.end(output_name)

    @abstractmethod
    def append_nodes(self, chain: Chain) -> None:
        """`transform` as ONNX nodes, at the end of a chain that stands at the logits."""


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


class Chain:
    """A chain of ONNX nodes: each step reads what the last one wrote; names are made from the prefix."""

    def __init__(self, input_name: str) -> None:
        self.last = input_name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: ArrayLike, dtype: type = np.float32) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), f"{PREFIX}{name}"))
        return f"{PREFIX}{name}"

    def step(self, operator: str, *others: str, result: str, first: str | None = None, **attributes: Any) -> str:
        """Append `operator(first or the last result, *others)`; its result is called `result`, with the prefix."""
        from onnx import helper

        inputs, name = [first or self.last, *others], f"{PREFIX}{result}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{PREFIX}node_{result}", **attributes))
        self.last = name
        return name

    def end(self, output_name: str) -> OnnxPart:
        """The parts, the last result renamed to `output_name`."""
        self.nodes[-1].output[0] = output_name
        return self.nodes, self.constants
