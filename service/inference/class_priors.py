"""Class priors of a request or a published name: probabilities of a file shifted to them, once it has run.

With p the file's probabilities at priors π, those at other priors are p'_k ∝ p_k · π'_k / π_k: requests with priors of
their own share batches with all others, and the file runs as it always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from fedlas.deployment import ClassPriors, same
from service.inference.standard_outputs import Outputs

#: Probabilities that are worked on at once in float64: 512 KiB.
_BLOCK_NUMBERS = 1 << 16


@dataclass(frozen=True, eq=False)
class PriorShift:
    """The step from the priors of a file's answers to others.

    Attributes:
        weights: (K,) float64, factors of the probabilities before they are normalised; None where they stay.
        said: the priors by class name, as JSON, for the answer; None where they are those of the calibration rows, for
            which alone promises are made.
    """

    weights: np.ndarray | None = None
    said: bytes | None = None

    @classmethod
    def to(cls, learnt: ClassPriors, priors: np.ndarray, class_names: Sequence[str]) -> PriorShift:
        """To `priors` (K,)."""
        said = (
            None if same(priors, learnt.shares) else orjson.dumps(dict(zip(class_names, priors.tolist(), strict=True)))
        )
        return cls(None if same(priors, learnt.default) else priors / learnt.default, said)

    @property
    def keeps_promises(self) -> bool:
        """Whether the priors are those of the calibration rows."""
        return self.said is None

    def __call__(self, outputs: Outputs) -> Outputs:
        """The outputs of rows, of which probabilities (N, K), index (N,) and confidence (N,) are at the priors."""
        if self.weights is None:
            return outputs
        probs = _reweighted(outputs["probabilities"], self.weights)
        return {**outputs, "probabilities": probs, "index": probs.argmax(axis=1), "confidence": probs.max(axis=1)}


#: Of a model at its own priors, which are those of its calibration rows or not known.
NO_SHIFT = PriorShift()


def _reweighted(probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """p_k · w_k / Σ_j p_j · w_j (N, K) in the type of the probabilities, computed in float64."""
    found = np.empty_like(probs)
    step = max(1, _BLOCK_NUMBERS // probs.shape[1])
    for start in range(0, len(probs), step):
        block = probs[start : start + step] * weights
        np.divide(block, block.sum(axis=1, keepdims=True), out=found[start : start + step], casting="same_kind")
    return found
