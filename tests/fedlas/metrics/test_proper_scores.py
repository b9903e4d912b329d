"""Proper scores: scikit-learn agrees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from fedlas import metrics
from tests.helpers.drawn_rows import drawn_rows

PROBS, TARGETS = np.tile([0.7, 0.2, 0.1], (6, 1)), np.array([0, 1, 2, 0, 1, 2])


def test_proper_scores_agree_with_scikit_learn() -> None:
    """NLL is `log_loss`, Brier summed over classes is the multiclass `brier_score_loss` (unscaled)."""
    probs, targets = drawn_rows(500, 4)
    labels = np.arange(4)
    assert metrics.nll(probs, targets) == pytest.approx(log_loss(targets, probs, labels=labels), rel=1e-12)
    theirs = brier_score_loss(targets, probs, labels=labels, scale_by_half=False)
    assert metrics.brier(probs, targets) == pytest.approx(theirs, rel=1e-12)
    assert metrics.row_scores(probs, targets, score="nll").mean() == metrics.nll(probs, targets)
    assert metrics.row_scores(probs, targets, score="brier").mean() == metrics.brier(probs, targets)


def test_nll_moves_only_probabilities_of_exactly_0() -> None:
    """A tiny probability keeps its own loss, and 0 costs the log of the smallest normal float64."""
    assert metrics.nll([[1.0, 1e-300]], [1]) == pytest.approx(300 * math.log(10))
    assert metrics.nll([[1.0, 0.0]], [1]) == pytest.approx(-math.log(np.finfo(np.float64).tiny))


def test_an_unknown_row_score_is_named() -> None:
    """`score` is "brier" or "nll"."""
    with pytest.raises(ValueError, match="score must be 'brier' or 'nll', got 'mse'"):
        metrics.row_scores(PROBS, TARGETS, score="mse")  # type: ignore[arg-type]
