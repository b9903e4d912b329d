"""Rows of a classifier whose true probabilities are known: labels are drawn from them."""

from __future__ import annotations

import numpy as np

from fedlas.calibrators import softmax
from fedlas.data.dataset import Array


def drawn_logits(num_rows: int = 1000, num_classes: int = 5, seed: int = 0) -> tuple[Array, Array]:
    """True logits (N, K), and labels (N,) drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_rows, num_classes))
    return logits, (softmax(logits).cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)


def drawn_rows(num_rows: int, num_classes: int, *, seed: int = 0, scale: float = 1.0) -> tuple[Array, Array]:
    """Probabilities softmax(scale·s) and labels drawn from softmax(s): calibrated for scale 1."""
    logits, targets = drawn_logits(num_rows, num_classes, seed)
    return softmax(scale * logits), targets


def rounded(probs: Array) -> Array:
    """Probabilities with many equal confidences."""
    coarse: Array = np.round(probs, 1) + 1e-9
    return coarse / coarse.sum(axis=1, keepdims=True)


def two_classes(confidences: Array, accuracies: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    wrong = rng.random(len(confidences)) >= accuracies
    return np.stack([confidences, 1 - confidences], axis=1), wrong.astype(np.int64)


def drawn_features(
    num_rows: int, dim: int, *, seed: int = 0, num_classes: int = 5, shift: float = 0.0
) -> tuple[Array, Array]:
    """Rows around class centres with a low-rank scatter and a little noise, and their classes."""
    fixed = np.random.default_rng(99)
    centres = 2 * fixed.normal(size=(num_classes, dim))
    scatter, away = fixed.normal(size=(min(dim, 20), dim)), fixed.normal(size=dim)
    rng = np.random.default_rng(seed)
    targets = rng.integers(num_classes, size=num_rows)
    noise = rng.normal(size=(num_rows, len(scatter))) @ scatter + 0.3 * rng.normal(size=(num_rows, dim))
    return centres[targets] + noise + shift * away, targets


def answers(predicted: Array, num_classes: int, confidence: float = 0.9) -> Array:
    """Probabilities whose top label is the one that is predicted."""
    probs = np.full((len(predicted), num_classes), (1 - confidence) / (num_classes - 1))
    probs[np.arange(len(predicted)), predicted] = confidence
    return probs


def changed(targets: Array, rows: range | list[int], num_classes: int) -> Array:
    """All right but for the rows given."""
    predicted = targets.copy()
    predicted[list(rows)] = (targets[list(rows)] + 1) % num_classes
    return predicted


def drawn_scores(rows: int = 2000, classes: int = 4, *, sharpened: float = 3.0, seed: int = 0) -> tuple[Array, Array]:
    """Logits `sharpened` times too large for the labels that were drawn from them, so the best temperature is that."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(rows, classes)) * 2
    targets = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    return (sharpened * true).astype(np.float32), targets


def plain_softmax(logits: Array) -> Array:
    """An implementation of the test's own."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
