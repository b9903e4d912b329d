"""Scores on calibration rows and the choice of a calibrator; it knows no network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas import metrics
from fedlas.calibrators import CALIBRATORS, Calibrator, softmax

_FOLDS = 5


def score(logits: ArrayLike, targets: NDArray[np.int64]) -> dict[str, float]:
    """`nll, accuracy, brier, ece` of logits (N, K) that went through their calibrator."""
    probs = softmax(logits)
    functions = {"nll": metrics.nll, "accuracy": metrics.accuracy, "brier": metrics.brier, "ece": metrics.ece}
    return {name: float(function(probs, targets)) for name, function in functions.items()}


def fit_calibrator(
    logits: ArrayLike, targets: NDArray[np.int64], names: Sequence[str], min_accuracy: float, *, seed: int
) -> Calibrator:
    """The calibrator with the lowest cross-fitted NLL, fitted on all rows; the first of `names` needs no accuracy.

    They are compared by cross-fitting, since on its own rows the one with more parameters always looks better. One
    that moves the decision (an intercept does) must keep the accuracy at `min_accuracy`.
    """
    scores = np.asarray(logits, dtype=np.float64)
    first, *others = [CALIBRATORS[name]().fit(scores, targets) for name in names]
    allowed = [c for c in others if np.mean(c(scores).argmax(axis=1) == targets) >= min_accuracy]
    if not allowed:
        return first
    return min([first, *allowed], key=lambda c: cross_fitted_nll(type(c), scores, targets, seed=seed))


def cross_fitted_nll(
    kind: type[Calibrator], logits: NDArray[np.float64], targets: NDArray[np.int64], *, seed: int
) -> float:
    """NLL of rows that the calibrator was not fitted on: five folds, each scored by a fit on the other four."""
    fold = np.random.default_rng(seed).permutation(len(targets)) % min(_FOLDS, len(targets))
    calibrated = np.empty_like(logits)
    for i in np.unique(fold):
        calibrated[fold == i] = kind().fit(logits[fold != i], targets[fold != i])(logits[fold == i])
    return score(calibrated, targets)["nll"]
