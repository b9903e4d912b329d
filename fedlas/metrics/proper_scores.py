"""Accuracy and the proper scores NLL and Brier, row by row and in the mean."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, Ints, check_rows
from fedlas.metrics.calibration_error import top_label

Score = Literal["brier", "nll"]


def accuracy(probs: ArrayLike, targets: ArrayLike) -> float:
    """Share of rows whose most probable class (the first among equals) is the target.

    Args:
        probs: probabilities (N, K), NumPy array or CPU tensor of any float type; computed in float64.
        targets: class indices (N,).

    Raises:
        ValueError: empty or ill-shaped input, NaN, negative probabilities, rows that do not sum to 1 within 1e-3,
            targets that are no class; the message names the row.

    >>> accuracy([[0.8, 0.2], [0.6, 0.4]], [0, 1])
    0.5
    """
    return float(top_label(*check_rows(probs, targets))[1].mean())


def nll(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean of −log p[y], in nats; only a probability of exactly 0 is moved, to the smallest normal float64 (708 nats).

    Raises:
        ValueError: see `accuracy`.

    >>> round(nll([[0.5, 0.5]], [1]), 6)
    0.693147
    """
    return float(row_scores(probs, targets, score="nll").mean())


def brier(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean of Σ_k (p[k] − 1[k = y])² (Brier 1950): summed over the classes, so between 0 and 2.

    Raises:
        ValueError: see `accuracy`.

    >>> brier([[1.0, 0.0]], [1])
    2.0
    """
    return float(row_scores(probs, targets, score="brier").mean())


def row_scores(probs: ArrayLike, targets: ArrayLike, *, score: Score) -> Floats:
    """The score of every row, (N,) float64: what a paired comparison of two models takes the difference of.

    Raises:
        ValueError: `score` is neither "brier" nor "nll"; see also `accuracy`.
    """
    rows, labels = check_rows(probs, targets)
    if score == "nll":
        return _nll_rows(rows, labels)
    if score == "brier":
        return _brier_rows(rows, labels)
    raise ValueError(f"score must be 'brier' or 'nll', got {score!r}")


def proper_rows(probs: Floats, targets: Ints) -> Floats:
    """Columns correct, NLL, Brier, (N, 3), of rows that were checked."""
    correct = top_label(probs, targets)[1]
    return np.stack([correct, _nll_rows(probs, targets), _brier_rows(probs, targets)], axis=1)


def _nll_rows(probs: Floats, targets: Ints) -> Floats:
    p = probs[np.arange(len(probs)), targets]
    return -np.log(np.where(p == 0, np.finfo(np.float64).tiny, p))


def _brier_rows(probs: Floats, targets: Ints) -> Floats:
    p = probs[np.arange(len(probs)), targets]
    # Σ p² − p[y]² + (1 − p[y])², without a one-hot matrix and without cancelling near a perfect row.
    return np.asarray(np.maximum(np.einsum("ij,ij->i", probs, probs) - p**2, 0) + (1 - p) ** 2)
