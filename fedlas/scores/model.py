"""The map from one score, or several signals, to log-odds of being right.

Several signals: each becomes log-odds by a curve of its own, which mends inverted and missing ones; a logistic pool
adds them up, with weights that are not negative and are drawn towards the best signal alone. Plain logistic stacking of
raw signals is the known trap (arXiv 2605.18696): it overfits redundant ones and extrapolates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlas.metrics.statistics import Floats, Ints
from fedlas.race.results import clearly_positive, group_codes
from fedlas.scores.curve import Curve, Evidence, fit_curve, read_off, row_losses, share_log_odds, sigmoid

#: How hard weights are drawn towards the best signal, in rows; the best of them by cross-fitting is taken.
_PULLS = (1.0, 10.0, 100.0)
#: The pool takes the best signal's place where its gain exceeds so many standard errors: more kept it out at 500 rows,
#: where it was better in all of sixteen draws.
_ERRORS_SHOWN = 0.5


@dataclass(frozen=True)
class ScoreModel:
    """Fitted curves of the signals, how they are added up, and the curve of their sum.

    Attributes:
        signals: the inputs, in order; `curves` of each.
        weights: (S,) of their log-odds beyond `base`; None of one score, whose curve is the whole map.
        final: the curve of the weighted sum; that of the score, where there is one.
    """

    signals: tuple[str, ...]
    curves: tuple[Curve, ...]
    weights: Floats | None
    base: float
    final: Curve

    def position(self, values: Floats) -> Floats:
        """The number (N,) that rows (N, S) are ordered by: the score itself, or the sum of several signals."""
        if self.weights is None:
            return values[:, 0]
        return np.asarray(self.base + self.parts(values).sum(axis=1))

    def parts(self, values: Floats) -> Floats:
        """The log-odds (N, S) that each of several signals adds to the base."""
        assert self.weights is not None
        columns = [curve(values[:, place]) - self.base for place, curve in enumerate(self.curves)]
        return np.asarray(np.stack(columns, axis=1) * self.weights)

    def log_odds(self, values: Floats) -> Floats:
        """Log-odds (N,) of being right for values (N, S), NaN where one is missing."""
        return self.final(self.position(values))


@dataclass(frozen=True)
class FittedModel:
    """A model with the log-odds (N,) that models of other rows give its own rows, and the reference's."""

    model: ScoreModel
    held_out: Floats
    best_signal: Floats | None = None


def fit_model(
    signals: Mapping[str, Floats], right: Ints, *, groups: NDArray[np.int64] | None, weights: Floats, seed: int = 0
) -> FittedModel:
    """Fit one score or several signals (N,) each to `right` (N,), whole groups at a time."""
    evidence = [Evidence(values, right, groups, weights) for values in signals.values()]
    fitted = [fit_curve(one, seed=seed) for one in evidence]
    names, curves = tuple(signals), tuple(curve for curve, _ in fitted)
    base = share_log_odds(right, weights)
    if len(fitted) == 1:
        return FittedModel(ScoreModel(names, curves, None, base, curves[0]), fitted[0][1])
    columns = np.stack([held_out for _, held_out in fitted], axis=1)
    losses = np.stack([row_losses(column, right) for column in columns.T], axis=1)
    best = int((weights @ losses).argmin())
    chosen, sums = _pooled(columns - base, base, best, evidence[0], seed)
    gains = losses[:, best] - row_losses(sums, right)
    if not clearly_positive(gains, group_codes(groups, len(right)), _ERRORS_SHOWN, weights):
        chosen, sums = np.eye(len(names))[best], columns[:, best]
    # The sum is calibrated as it is: a curve that was fitted to it once more cost 0.008 of NLL at 600 rows.
    final = read_off(Evidence(sums, right, groups, weights), sigmoid, sign=1)
    return FittedModel(ScoreModel(names, curves, chosen, base, final), sums, columns[:, best])


def _pooled(columns: Floats, base: float, best: int, rows: Evidence, seed: int) -> tuple[Floats, Floats]:
    """Weights (S,) of log-odds beyond the base (N, S), and their sums (N,) by weights of other rows."""
    sums = {}
    for pull in _PULLS:
        sums[pull] = np.empty(len(columns))
        for fold in rows.folds(seed):
            others = np.delete(np.arange(len(columns)), fold)
            found = _pool_weights(columns[others], base, best, rows[others], pull)
            sums[pull][fold] = base + columns[fold] @ found
    pull = min(_PULLS, key=lambda one: float(rows.weights @ row_losses(sums[one], rows.right)))
    return _pool_weights(columns, base, best, rows, pull), sums[pull]


def _pool_weights(columns: Floats, base: float, best: int, rows: Evidence, pull: float) -> Floats:
    """Weights w ≥ 0 of the lowest Σ NLL + pull/2·|w − e_best|²."""
    from scipy.optimize import minimize

    towards = np.eye(columns.shape[1])[best]

    def value_and_slope(weights: Floats) -> tuple[float, Floats]:
        log_odds = base + columns @ weights
        off = 1 / (1 + np.exp(-log_odds)) - rows.right
        value = float(rows.weights @ row_losses(log_odds, rows.right)) + pull / 2 * float(
            ((weights - towards) ** 2).sum()
        )
        return value, (rows.weights * off) @ columns + pull * (weights - towards)

    bounds = [(0.0, None)] * len(towards)
    return np.asarray(minimize(value_and_slope, towards, method="L-BFGS-B", jac=True, bounds=bounds).x)
