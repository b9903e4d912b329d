"""Pooling by cross-fitting: members fitted without a fold, and weights that have not seen the rows they mix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import Calibrator
from fedlas.calibrators.base import LogitsCalibrator
from fedlas.calibrators.pool import log_pool_weights, log_pooled, log_probs, mixture_weights, pooled
from fedlas.race.results import Doubles
from fedlas.race.scoring import CrossFitted, cross_fitted_logits, row_nll

Integers = NDArray[np.int64]
#: Weights (M,) of members on these rows (indices), which count by these shares.
_Fit = Callable[[Integers, Doubles], Doubles]


def cross_fitted(
    kind: type[Calibrator],
    logits: Doubles,
    targets: Integers,
    folds: Sequence[Integers],
    weights: Doubles | None,
) -> CrossFitted:
    """A calibrator fitted on all rows and cross-fitted.

    Raises:
        ValueError, ArithmeticError, numpy.linalg.LinAlgError: a fold or all rows do not determine it.
    """
    held_out = cross_fitted_logits(kind, logits, targets, folds, weights)
    return CrossFitted(kind().fit(logits, targets, weights=weights), held_out)


def pool_member(
    kind: type[LogitsCalibrator],
    logits: Doubles,
    targets: Integers,
    folds: Sequence[Integers],
    weights: Doubles | None,
) -> CrossFitted | None:
    """A cross-fitted calibrator; None where a fold or all rows do not determine it."""
    try:
        found = cross_fitted(kind, logits, targets, folds, weights)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return None
    return found if np.isfinite(found.held_out).all() else None


def cross_fitted_mixture(
    held_out: Sequence[Doubles], targets: Integers, shares: Doubles, folds: Sequence[Integers]
) -> tuple[Doubles, Doubles]:
    """Weights (M,) of the linear mixture of the highest likelihood of M cross-fitted logits (N, K), and the mixture's.

    Args:
        shares: what each row counts (N,); they sum to 1.
    """
    true_probs = np.exp(-np.stack([row_nll(one, targets) for one in held_out], axis=1))
    weights, by_row = _cross_fitted_weights(lambda rows, by: mixture_weights(true_probs[rows], by), shares, folds)
    return weights, pooled(held_out, by_row)


def cross_fitted_log_mixture(
    held_out: Sequence[Doubles], targets: Integers, shares: Doubles, folds: Sequence[Integers]
) -> tuple[Doubles, Doubles]:
    """Weights (M,) of the log-linear mixture of M cross-fitted logits (N, K), and the mixture's.

    A member with a logit that is not finite has no weight.

    Raises:
        ValueError: no member's logits are finite.
    """
    finite = np.array([bool(np.isfinite(one).all()) for one in held_out])
    if not finite.any():
        raise ValueError("logits must be finite in one member at least")
    logs = [log_probs(one) for one, sound in zip(held_out, finite, strict=True) if sound]

    def fit(rows: Integers, by: Doubles) -> Doubles:
        return log_pool_weights([one[rows] for one in logs], targets[rows], by)

    fitted, by_row = _cross_fitted_weights(fit, shares, folds)
    weights = np.zeros(len(held_out))
    weights[finite] = fitted
    return weights, log_pooled(logs, by_row[..., None])


def _cross_fitted_weights(fit: _Fit, shares: Doubles, folds: Sequence[Integers]) -> tuple[Doubles, Doubles]:
    """Weights (M,) of all rows, and of each row (M, N) those of the other folds."""
    everything = np.arange(len(shares))
    weights = fit(everything, shares)
    by_row = np.empty((len(weights), len(shares)))
    for rows in folds:
        others = np.delete(everything, rows)
        others = others if len(others) else rows
        by_row[:, rows] = fit(others, shares[others] / shares[others].sum())[:, None]
    return weights, by_row
