"""Predictions: the named columns that a decision policy makes of a model's outputs; the writers lay them out."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from service.inference.decision_policy import DecisionPolicy
from service.inference.standard_outputs import Outputs, completed
from service.registry.errors import InvalidRequest

#: Numbers that are ranked at once: an order takes eight bytes for each.
_BLOCK_NUMBERS = 1 << 20


class Predictions:
    """The columns of N rows, each computed when it is first read.

    Args:
        outputs: logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,) and, where the
            file has them, features (N, D) and familiarity (N,); or what `completed` made of them, of which the policy
            names what it takes.
        first_row: number of the first row, for errors.

    Raises:
        InvalidRequest: `non_finite_output` where the model computes no number: JSON has no NaN.
    """

    def __init__(self, outputs: Outputs, policy: DecisionPolicy, *, first_row: int = 0) -> None:
        self._computed = outputs if "index" in outputs else completed(dict(outputs))
        self.policy = policy
        if "finite" in self._computed:
            check_finite(self._computed["finite"], first_row=first_row)

    @cached_property
    def outputs(self) -> Outputs:
        """What the file has computed, at the priors that the policy asks for."""
        return self.policy.shift(self._computed)

    @property
    def index(self) -> np.ndarray:
        """(N,) the most probable class."""
        return self.outputs["index"]

    @property
    def confidence(self) -> np.ndarray:
        """(N,) the largest calibrated probability."""
        return self.outputs["confidence"]

    @property
    def uncalibrated_confidence(self) -> np.ndarray:
        """(N,) float64, the largest softmax of the same graph's logits."""
        return self.outputs["uncalibrated_confidence"]

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K)."""
        return self.outputs["probabilities"]

    @property
    def abstain(self) -> np.ndarray:
        """(N,) whether the confidence is below the threshold; compared as float64, since the threshold is one."""
        abstain: np.ndarray = self.confidence.astype(np.float64) < self.policy.threshold
        return abstain

    @property
    def probability(self) -> np.ndarray | None:
        """(N,) of the positive class; None unless the model is binary."""
        return self.probabilities[:, self.policy.profile.positive] if self.policy.profile.binary else None

    @property
    def familiarity(self) -> np.ndarray | None:
        """(N,) share of the calibration rows that were at least as strange; a distance that overflows is far."""
        found = self.outputs.get("familiarity")
        return None if found is None else np.nan_to_num(found, nan=0.0)

    @cached_property
    def best(self) -> np.ndarray:
        """(N, k) the most probable classes, the best first."""
        return best_classes(self.probabilities, self.policy.options.top_k or 1)

    @property
    def best_confidence(self) -> np.ndarray:
        """(N, k) their probabilities."""
        return np.take_along_axis(self.probabilities, self.best, axis=1)

    @property
    def decision(self) -> np.ndarray | None:
        """(N,) the class to act on; None where no decision was asked for."""
        return None if self.policy.options.decision is None else self.policy.decided(self.probabilities)

    @property
    def abstained(self) -> int:
        """In how many rows the service abstains."""
        if not self.policy.abstains:
            return 0
        if len(self.confidence) == 1:  # numpy's calls take ten times as long
            return int(float(self.confidence[0]) < self.policy.threshold)
        return int(np.count_nonzero(self.abstain))


def check_finite(finite: np.ndarray, *, first_row: int = 0) -> None:
    """Raise InvalidRequest `non_finite_output` with the first row that is not finite, counted from `first_row`."""
    if not finite.all():
        row = first_row + int(np.flatnonzero(~finite)[0])
        raise InvalidRequest("non_finite_output", no_confidence(row), field="inputs")


def no_confidence(row: int) -> str:
    """The sentence of `non_finite_output`."""
    what = "the model's own numbers overflow on these values, or it cannot read missing ones"
    return f"row {row}: {what}; no confidence can be given"


def best_classes(probs: np.ndarray, k: int) -> np.ndarray:
    """(N, k) indices of the most probable classes, the best first; of equal ones the first."""
    if probs.size <= _BLOCK_NUMBERS or len(probs) == 1:
        return np.argsort(-probs, axis=1, kind="stable")[:, :k]
    step = max(1, _BLOCK_NUMBERS // probs.shape[1])
    return np.concatenate([best_classes(probs[start : start + step], k) for start in range(0, len(probs), step)])
