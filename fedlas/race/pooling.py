"""Pooling by cross-fitting: members fitted without a fold, and weights that have not seen the rows they mix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators.base import LogitsCalibrator
from fedlas.calibrators.pool import mixture_weights, pooled
from fedlas.race.results import Doubles
from fedlas.race.scoring import CrossFitted, cross_fitted_logits, row_nll

Integers = NDArray[np.int64]


def cross_fitted(
    kind: type[LogitsCalibrator],
    scores: Doubles,
    targets: Integers,
    folds: Sequence[Integers],
    weights: Doubles | None,
) -> CrossFitted | None:
    """A calibrator fitted on all rows and cross-fitted; None where a fold or all rows do not determine it."""
    try:
        held_out = cross_fitted_logits(kind, scores, targets, folds, weights)
        fitted = kind().fit(scores, targets, weights=weights)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return None
    return CrossFitted(fitted, held_out) if np.isfinite(held_out).all() else None


def cross_fitted_mixture(
    held_out: Sequence[Doubles], targets: Integers, shares: Doubles, folds: Sequence[Integers]
) -> tuple[Doubles, Doubles]:
    """Weights (M,) of the mixture of the highest likelihood of M cross-fitted logits (N, K), and the mixture's.

    Held out, each fold has the weights of the other folds.

    Args:
        shares: what each row counts (N,); they sum to 1.
    """
    true_probs = np.exp(-np.stack([row_nll(one, targets) for one in held_out], axis=1))
    by_row = np.empty_like(true_probs)
    for rows in folds:
        others = np.delete(np.arange(len(by_row)), rows)
        others = others if len(others) else rows
        by_row[rows] = mixture_weights(true_probs[others], shares[others] / shares[others].sum())
    return mixture_weights(true_probs, shares), pooled(held_out, by_row.T)
