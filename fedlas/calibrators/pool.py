"""Pool: a linear mixture of the probabilities of several calibrators.

A linear opinion pool (Stone 1961) whose weights have the highest likelihood on rows that no member was fitted on, as
in the stacking of densities (Smyth and Wolpert 1999). Choosing one member loses what the others know, and a threshold
for choosing (one standard error) falls back to the temperature where rows are few. One of the members may be
`Uniform`, which takes over the doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import (
    PREFIX,
    Calibrator,
    Chain,
    Floats,
    Ints,
    LogitsCalibrator,
    OnnxPart,
    Parameters,
    softmax,
)

#: A member with a smaller weight is dropped: it costs a branch of the served graph and changes nothing.
LEAST_WEIGHT = 1e-3
#: Added to every mean probability, so that its logarithm stays finite in float32.
TINY = 1e-37
_STEPS, _CLOSE_ENOUGH = 300, 1e-6


class Uniform(LogitsCalibrator):
    """The same probability for every class, whatever the logits are."""

    name = "uniform"

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        pass

    def transform(self, scores: Floats) -> Floats:
        return np.zeros_like(scores)

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return 0

    def append_nodes(self, chain: Chain) -> None:
        chain.step("Mul", chain.constant("nothing", 0.0), result="even")


class Pool(Calibrator):
    """log Σ w·softmax(member) with weights w (M,) that sum to 1.

    >>> from fedlas.calibrators import TemperatureScaling
    >>> pool = Pool([TemperatureScaling(1.0), TemperatureScaling(2.0), Uniform()], [0.5, 0.3, 0.2])
    >>> softmax(pool([[2 * np.log(3.0), 0.0]])).round(4).tolist()  # 0.5·0.9 + 0.3·0.75 + 0.2·0.5
    [[0.775, 0.225]]
    """

    name = "pool"

    def __init__(self, members: Sequence[Calibrator], weights: ArrayLike) -> None:
        self.members, self.weights = tuple(members), np.asarray(weights, np.float64)
        if not self.members or self.weights.shape != (len(self.members),):
            raise ValueError(f"members and weights must be (M,) each, got {len(self.members)} and {self.weights.shape}")
        if not (np.isfinite(self.weights).all() and self.weights.min() >= 0 and abs(self.weights.sum() - 1) < 1e-6):
            raise ValueError(f"weights must not be negative and must sum to 1, got {self.weights.tolist()}")
        #: `Uniform` adds the same to every class.
        self.keeps_order = all(member.keeps_order or isinstance(member, Uniform) for member in self.members)

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        """Fit every member again; the mixture's weights, which need rows that were left out, stay as they are."""
        for member in self.members:
            member.fit(logits, targets, weights=weights)
        return self

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        return pooled([member(logits, features) for member in self.members], self.weights)

    def parameters(self) -> Parameters:
        members = [{"name": member.name, "parameters": member.parameters()} for member in self.members]
        return {"members": members, "weights": self.weights.tolist()}

    def to_onnx(self, logits_name: str, output_name: str, features_name: str = "features") -> OnnxPart:
        """A branch per member from the same logits, Softmax and Mul each, then Add and Log."""
        chain, total = Chain(logits_name), ""
        for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            part = member.to_onnx(logits_name, f"{PREFIX}result", features_name)
            nodes, constants = _numbered(part, number, given=(logits_name, features_name))
            chain.nodes += nodes
            chain.constants += constants
            chain.step("Softmax", result=f"pool_probs_{number}", first=nodes[-1].output[0], axis=1)
            chain.step("Mul", chain.constant(f"pool_weight_{number}", weight), result=f"pool_share_{number}")
            total = chain.step("Add", total, result=f"pool_total_{number}") if total else chain.last
        chain.step("Add", chain.constant("pool_tiny", TINY), result="pool_positive")
        chain.step("Log", result="pool_logits")
        return chain.end(output_name)


def pooled(calibrated: Sequence[Floats], weights: Floats) -> Floats:
    """log Σ w·softmax over calibrated logits (N, K), with weights (M,) or one of each row, (M, N)."""
    mean = sum(np.expand_dims(w, -1) * softmax(logits) for logits, w in zip(calibrated, weights, strict=True))
    return np.asarray(np.log(mean + TINY), np.float64)


def mixture_weights(true_probs: Floats, rows: Floats) -> Floats:
    """The weights (M,) of the highest Σ rows·log(true_probs @ weights), by expectation maximisation.

    Args:
        true_probs: what each member says to the true class, (N, M), some member more than 0 in every row.
        rows: weights (N,) of the rows, which sum to 1.

    >>> right = np.array([[0.9, 0.5], [0.9, 0.5], [0.1, 0.5]])
    >>> mixture_weights(right, np.full(3, 1 / 3)).round(2).tolist()  # says 2/3 where the first alone says 0.9
    [0.42, 0.58]
    """
    weights = np.full(true_probs.shape[1], 1 / true_probs.shape[1])
    for _ in range(_STEPS):
        shares = true_probs * weights
        before, weights = weights, (rows / shares.sum(axis=1)) @ shares
        if np.abs(weights - before).max() < _CLOSE_ENOUGH:
            break
    weights[weights < LEAST_WEIGHT] = 0.0
    return np.asarray(weights / weights.sum())


def _numbered(part: OnnxPart, number: int, *, given: tuple[str, str]) -> OnnxPart:
    """A member's part with its number in every name of its own: two members may use the same one.

    What it was `given` keeps its name, which may be that of a calibrator around the pool.
    """
    nodes, constants = part

    def own(name: str) -> str:
        mine = name.startswith(PREFIX) and name not in given
        return name.replace(PREFIX, f"{PREFIX}member_{number}_", 1) if mine else name

    for constant in constants:
        constant.name = own(constant.name)
    for node in nodes:
        node.name = own(node.name)
        for names in (node.input, node.output):
            names[:] = [own(name) for name in names]
    return nodes, constants
