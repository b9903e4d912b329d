"""Selective classification: AURC, AUGRC and the curve by their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fedlas import metrics
from fedlas.metrics.selective import RiskCoverage
from fedlas.metrics.statistics import ResamplingUnits
from tests.helpers.drawn_rows import drawn_rows, rounded

Array = NDArray[Any]


def brute_force_aurc(confidences: Array, wrong: Array) -> float:
    """Mean over many random orders within ties."""
    rng, total = np.random.default_rng(0), 0.0
    for _ in range(4000):
        order = np.lexsort((rng.random(len(wrong)), -confidences))
        total += (np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)).mean()
    return total / 4000


def augrc_by_definition(confidences: Array, wrong: Array) -> float:
    """P(another row is at least as sure as a random bar, and wrong): all pairs, ties half."""
    above = (confidences[:, None] > confidences) + 0.5 * (confidences[:, None] == confidences)
    return float((above * wrong[:, None]).sum() / len(wrong) ** 2)


def test_aurc_averages_over_the_orders_of_ties() -> None:
    """The closed form is the mean over random orders, and by hand (0 + 1/2 + 1 + 1/2)/4 for two tied rows."""
    assert metrics.aurc([[0.9, 0.1], [0.9, 0.1]], [0, 1]) == pytest.approx(0.5)
    rng = np.random.default_rng(1)
    confidences = rng.choice([0.6, 0.7, 0.8, 0.95], size=30)
    targets = rng.integers(2, size=30)
    probs = np.stack([confidences, 1 - confidences], axis=1)
    assert metrics.aurc(probs, targets) == pytest.approx(brute_force_aurc(confidences, targets), abs=3e-3)


def test_aurc_without_ties_is_the_mean_of_the_selective_risks() -> None:
    """Without ties AURC is the plain mean of cumulative error rates."""
    probs, targets = drawn_rows(300, 5)
    wrong = (probs.argmax(axis=1) != targets)[np.argsort(-probs.max(axis=1))]
    assert metrics.aurc(probs, targets) == pytest.approx((wrong.cumsum() / np.arange(1, 301)).mean(), rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_augrc_is_its_definition_and_its_closed_form(ties: bool) -> None:
    """All pairs by brute force, and (1 − AUROC)·a·(1 − a) + (1 − a)²/2 with scikit-learn's AUROC, agree with it."""
    probs, targets = drawn_rows(300, 4, seed=1)
    probs = rounded(probs) if ties else probs
    right = probs.argmax(axis=1) == targets
    value, a = metrics.augrc(probs, targets), right.mean()
    assert value == pytest.approx(augrc_by_definition(probs.max(axis=1), ~right), rel=1e-9)
    auroc = roc_auc_score(right, probs.max(axis=1))
    assert value == pytest.approx((1 - auroc) * a * (1 - a) + (1 - a) ** 2 / 2, rel=1e-9)


def test_augrc_of_resamples_is_that_of_the_resampled_rows() -> None:
    """Weights and repeated rows give the same."""
    probs, targets = drawn_rows(60, 3, seed=3)
    probs = rounded(probs)
    counts = next(iter(ResamplingUnits(None, 60).resamples(20, seed=0)))
    for row, value in zip(counts, RiskCoverage(probs, targets).both(counts)[:, 1], strict=True):
        held = np.repeat(np.arange(60), row)
        assert value == pytest.approx(metrics.augrc(probs[held], targets[held]), rel=1e-9)


def test_augrc_of_extremes() -> None:
    """Always right gives 0; always wrong gives 1/2, however sure."""
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]])
    assert metrics.augrc(probs, [0, 0, 0]) == 0
    assert metrics.augrc(probs, [1, 1, 1]) == pytest.approx(0.5)


@pytest.mark.parametrize("rows", [7, 150, 1234])
def test_the_risk_coverage_curve_is_what_answering_gives(rows: int) -> None:
    """Every point: answer where the confidence reaches the threshold, count, and the last point answers everything."""
    probs, targets = drawn_rows(rows, 3, seed=2)
    probs = rounded(probs) if rows == 150 else probs
    curve = metrics.risk_coverage_curve(probs, targets)
    confidences, wrong = probs.max(axis=1), probs.argmax(axis=1) != targets
    assert 1 <= len(curve.coverage) <= 200
    assert curve.coverage[-1] == 1
    assert (np.diff(curve.coverage) > 0).all()
    for coverage, threshold, error in zip(curve.coverage, curve.thresholds, curve.error_rate, strict=True):
        kept = confidences >= threshold
        assert (kept.mean(), wrong[kept].mean()) == pytest.approx((coverage, error), abs=1e-12)
    assert ((curve.low <= curve.error_rate) & (curve.error_rate <= curve.high)).all()


def test_the_band_of_copies_is_no_narrower() -> None:
    """Every row four times in one group has the band of the rows alone, to a degree of freedom."""
    probs, targets = drawn_rows(200, 3, seed=5)
    alone = metrics.risk_coverage_curve(probs, targets)
    rows = np.repeat(np.arange(200), 4)
    four = metrics.risk_coverage_curve(probs[rows], targets[rows], groups=rows)
    assert four.high[-1] - four.low[-1] == pytest.approx(alone.high[-1] - alone.low[-1], rel=0.01)
