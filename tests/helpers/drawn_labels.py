"""Logits, and labels drawn from their softmax."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from fedlas.calibrators import softmax


def drawn(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Labels drawn from the softmax of the logits."""
    chance = np.random.default_rng(seed).random((len(logits), 1))
    return np.asarray((softmax(logits).cumsum(axis=1) > chance).argmax(axis=1))


def normal(num_rows: int, num_classes: int, seed: int = 1) -> np.ndarray:
    return 2 * np.random.default_rng(seed).normal(size=(num_rows, num_classes))


def nll(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def two_classes(log_odds: np.ndarray) -> np.ndarray:
    """Logits (N, 2) with these log-odds (N,)."""
    return np.stack([np.zeros_like(log_odds), log_odds], axis=1)
