"""Pools of calibrators: linear and log-linear mixtures of their probabilities, with weights by likelihood.

`Pool` is a linear opinion pool (Stone 1961) whose weights have the highest likelihood on rows that no member was fitted
on, as in the stacking of densities (Smyth and Wolpert 1999). Choosing one member loses what the others know. One of the
members may be `Uniform`, which is the uniform mix.

`LogPool` is a logarithmic one (Genest and Zidek 1986). Members that are calibrated and disagree have a linear mixture
that is underconfident (Ranjan and Gneiting 2010, doi 10.1111/j.1467-9868.2009.00726.x); the weights of a log-linear one
need not sum to one, so that their sum is the inverse temperature of the mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import (
    Calibrator,
    Floats,
    Ints,
    LogitsCalibrator,
    Parameters,
    effective_count,
    log_softmax,
    softmax,
)
from fedlas.calibrators.stack import TINY, Columns, Stack, total

#: A mixture gives smaller weights to nobody: that member changes nothing.
MIN_WEIGHT = 1e-3
#: A member with a smaller share of the weight leaves a pool: it costs as much of the served graph as the others and
#: hardly moves an answer. Pools of 15 networks went from 6.1 to 4.6 members, NLL on hidden rows changed by -0.00008.
MIN_SHARE = 0.1
#: No member of a log-linear mixture says less, in nats, of any class: a sure error of one member rules no row.
MIN_LOG_PROB = -30.0
#: Standard deviation of the logarithm of the sum of its weights that is expected before any row is seen.
PRIOR_OF_SUM = 0.25
#: Log-linear weights are fitted on every so many-th row where members have more numbers than this: 40 MB each.
MAX_FITTED_LOGITS = 5_000_000
_STEPS = 300
_WEIGHT_TOLERANCE = 1e-6


class Uniform(LogitsCalibrator):
    """Probabilities of 1/K for every class, whatever the logits are."""

    name = "uniform"

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        pass

    def transform(self, scores: Floats) -> Floats:
        return np.zeros_like(scores)

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return logits * 0.0


class _Mixture(Calibrator):
    """Several calibrators of the same logits with weights (M,), which are not negative.

    Raises:
        ValueError: members and weights do not fit, or no weight is positive.
    """

    def __init__(self, members: Sequence[Calibrator], weights: ArrayLike) -> None:
        self.members, self.weights = tuple(members), np.asarray(weights, np.float64)
        if not self.members or self.weights.shape != (len(self.members),):
            raise ValueError(f"members and weights must be (M,) each, got {len(self.members)} and {self.weights.shape}")
        if not (np.isfinite(self.weights).all() and self.weights.min() >= 0 and self.weights.max() > 0):
            raise ValueError(f"weights must be finite, not negative and not all 0, got {self.weights.tolist()}")
        #: `Uniform` adds the same to every class.
        self.keeps_order = all(member.keeps_order or isinstance(member, Uniform) for member in self.members)

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        """Fit every member again; the mixture's weights, which need rows that were left out, stay as they are."""
        for member in self.members:
            member.fit(logits, targets, weights=weights)
        return self

    def parameters(self) -> Parameters:
        return {
            "members": [{"name": member.name, "parameters": member.parameters()} for member in self.members],
            "weights": self.weights.tolist(),
        }


class Pool(_Mixture):
    """log Σ w·softmax(member) with weights w (M,) that sum to 1.

    >>> from fedlas.calibrators import TemperatureScaling
    >>> pool = Pool([TemperatureScaling(1.0), TemperatureScaling(2.0), Uniform()], [0.5, 0.3, 0.2])
    >>> softmax(pool([[2 * np.log(3.0), 0.0]])).round(4).tolist()  # 0.5·0.9 + 0.3·0.75 + 0.2·0.5
    [[0.775, 0.225]]
    """

    name = "pool"

    def __init__(self, members: Sequence[Calibrator], weights: ArrayLike) -> None:
        super().__init__(members, weights)
        if abs(self.weights.sum() - 1) >= 1e-6:
            raise ValueError(f"weights must sum to 1, got {self.weights.tolist()}")

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        return pooled([member(logits, features) for member in self.members], self.weights)

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        shares = zip(self.members, self.weights, strict=True)
        probs = total(stack.softmax(one.stacked(stack, logits, features)) * weight for one, weight in shares)
        return stack.log(probs + np.full(logits.width, TINY))


class LogPool(_Mixture):
    """Σ w·max(log softmax(member), −30) with weights w (M,), whose sum is free.

    >>> from fedlas.calibrators import TemperatureScaling
    >>> pool = LogPool([TemperatureScaling(1.0), TemperatureScaling(2.0)], [0.5, 1.0])
    >>> softmax(pool([[2 * np.log(3.0), 0.0]])).round(4).tolist()  # odds of 9^0.5 · 3
    [[0.9, 0.1]]
    """

    name = "log_pool"

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        return log_pooled([log_probs(member(logits, features)) for member in self.members], self.weights)

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        # max(l, −30) + 30 by an operator of any opset; the 30 is the same for every class and changes nothing.
        logs = [stack.log_softmax(one.stacked(stack, logits, features)) for one in self.members]
        raised = [stack.apply("Relu", one + np.full(logits.width, -MIN_LOG_PROB)) for one in logs]
        return total(one * weight for one, weight in zip(raised, self.weights.tolist(), strict=True))


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
        if np.abs(weights - before).max() < _WEIGHT_TOLERANCE:
            break
    weights[weights < MIN_WEIGHT] = 0.0
    return np.asarray(weights / weights.sum())


def log_probs(logits: ArrayLike) -> Floats:
    """Log-probabilities (N, K) of calibrated logits as a log-linear mixture takes them: at least −30.

    >>> log_probs([[0.0, -100.0]]).tolist()
    [[0.0, -30.0]]
    """
    return np.asarray(np.maximum(log_softmax(np.asarray(logits, np.float64)), MIN_LOG_PROB))


def log_pooled(logs: Sequence[Floats], weights: Floats) -> Floats:
    """Σ w·log p over log-probabilities (N, K) with weights (M,)."""
    return np.asarray(sum(weight * one for one, weight in zip(logs, weights, strict=True)), np.float64)


def log_pool_weights(logs: Sequence[Floats], targets: Ints, rows: Floats) -> Floats:
    """Weights (M,) of the highest likelihood of softmax(Σ w·log p), the logarithm of their sum under a normal prior.

    They minimise Σ rows·NLL + (log Σ w)² / (2·0.25²·n), n the effective number of rows, over w ≥ 0.

    Args:
        logs: log-probabilities (N, K) of each member, as `log_probs` gives them.
        targets: class indices (N,).
        rows: weights (N,) of the rows, which sum to 1.

    >>> half, targets = np.log(np.full((8, 2), 0.5)), np.array([0, 1] * 4)
    >>> sure = np.log([[0.8, 0.2], [0.2, 0.8]] * 4)
    >>> log_pool_weights([sure, half], targets, np.full(8, 1 / 8)).round(2).tolist()
    [1.14, 0.0]
    """
    step = -(-logs[0].size // MAX_FITTED_LOGITS)
    members, labels = np.stack([one[::step] for one in logs]), targets[::step]
    shares = rows[::step] / rows[::step].sum()
    return without_small(lambda kept: _log_weights(members[kept], labels, shares), len(members))


def without_small(fit: Callable[[Ints], Floats], count: int, *, exempt: int | None = None) -> Floats:
    """Weights (M,) of M members, none of them under a tenth of their sum but 0.

    Args:
        fit: the weights of some members, by their indices; the smallest leaves and the others are fitted again.
        count: M.
        exempt: index of a member that stays, however small it is.

    >>> without_small(lambda kept: np.array([0.7, 0.25, 0.05])[kept], 3).tolist()
    [0.7, 0.25, 0.0]
    """
    kept = np.arange(count)
    while True:
        fitted = fit(kept)
        small = (fitted < MIN_SHARE * fitted.sum()) & (kept != exempt)
        if not small.any():
            break
        kept = np.delete(kept, np.where(small, fitted, np.inf).argmin())
    weights = np.zeros(count)
    weights[kept] = fitted
    return weights


def _log_weights(members: Floats, labels: Ints, shares: Floats) -> Floats:
    """The weights (M,) of members (M, N, K), none of which is dropped."""
    from scipy.optimize import minimize  # loaded where calibrators are fitted: 50 MB that serving does without

    true, precision = members[:, np.arange(len(labels)), labels], 1 / (PRIOR_OF_SUM**2 * effective_count(shares))

    def value_and_slope(weights: Floats) -> tuple[float, Floats]:
        total = max(float(weights.sum()), TINY)
        logs, prior = log_softmax(np.tensordot(weights, members, 1)), np.log(total)
        nll = -shares @ logs[np.arange(len(labels)), labels]
        slope = (np.einsum("nk,mnk->mn", np.exp(logs), members) - true) @ shares
        return float(nll + precision * prior**2 / 2), slope + precision * prior / total

    start = np.full(len(members), 1 / len(members))
    bounds = [(0, None)] * len(members)
    return np.asarray(minimize(value_and_slope, start, method="L-BFGS-B", jac=True, bounds=bounds).x, np.float64)
