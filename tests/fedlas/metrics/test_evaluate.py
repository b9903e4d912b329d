"""Evaluation: metrics with intervals, paired differences, and options; scikit-learn agrees with proper scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from fedlas import metrics
from fedlas.contract.figures import BinnedEstimate, Estimate
from fedlas.metrics import compare, evaluate, paired_bootstrap
from tests.helpers.drawn_rows import drawn_rows

BINNED = ("ece", "adaptive_ece", "classwise_ece")
RESAMPLED = ("accuracy", "nll", "brier", "aurc")


def test_evaluate_reports_the_metrics_themselves() -> None:
    """The report holds all eight in order, each with the value of its own function inside its interval."""
    probs, targets = drawn_rows(400, 5, seed=0, scale=1.5)
    report = evaluate(probs, targets, num_resamples=200)
    assert tuple(report) == metrics.METRICS
    for name, estimate in report.items():
        assert estimate.value == pytest.approx(getattr(metrics, name)(probs, targets), rel=1e-12)
        assert isinstance(estimate, BinnedEstimate if name in BINNED else Estimate)
        if isinstance(estimate, Estimate):
            assert estimate.low < estimate.value < estimate.high
    assert type(report["ece"]).model_fields.keys() == {"value", "floor_low", "floor_high"}
    assert type(report["nll"]).model_fields.keys() == {"value", "low", "high"}


def test_compare_reports_the_differences() -> None:
    """Every figure is that of the first model minus that of the second, in opposite directions when swapped."""
    probs, targets = drawn_rows(400, 5, seed=0)
    base, _ = drawn_rows(400, 5, seed=0, scale=2)
    there, back = (compare(a, b, targets, num_resamples=200) for a, b in ((probs, base), (base, probs)))
    for name in metrics.METRICS:
        metric = getattr(metrics, name)
        expected = metric(probs, targets) - metric(base, targets)
        assert there[name].value == pytest.approx(expected, abs=1e-12)
        assert back[name].value == pytest.approx(-expected, abs=1e-12)
    nll = there["nll"]
    assert isinstance(nll, Estimate)
    assert nll.high < 0


def test_a_model_does_not_differ_from_itself() -> None:
    """Paired with itself every difference, its interval and its floor are exactly 0."""
    probs, targets = drawn_rows(200, 4, seed=1)
    for name, estimate in compare(probs, probs, targets, num_resamples=50).items():
        if name != "calibration_error_l2":
            assert set(vars(estimate).values()) == {0.0}
        assert estimate.value == 0.0


def test_the_seed_decides_everything() -> None:
    """One seed always gives one report, another seed another interval."""
    probs, targets = drawn_rows(100, 3, seed=2)
    first, again, other = (evaluate(probs, targets, num_resamples=100, seed=s) for s in (5, 5, 6))
    assert first == again
    assert first["nll"] != other["nll"]
    assert first["ece"] != other["ece"]


def test_evaluate_with_groups_widens_every_interval() -> None:
    """Copies of rows in one group do not narrow an interval, whatever the metric."""
    probs, targets = drawn_rows(150, 3, seed=4, scale=2)
    alone = evaluate(probs, targets, num_resamples=300)
    rows = np.repeat(np.arange(150), 4)
    copies = evaluate(probs[rows], targets[rows], groups=rows, num_resamples=300)
    for name in (*RESAMPLED, "calibration_error_l2"):
        one, four = alone[name], copies[name]
        assert isinstance(one, Estimate)
        assert isinstance(four, Estimate)
        assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.35)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"differences": []}, "differences must be"),
        ({"differences": [0.0, np.nan]}, "differences must be"),
        ({"differences": [[1.0]]}, "differences must be"),
        ({"groups": [1]}, r"groups must be \(2,\)"),
        ({"num_resamples": 0}, "num_resamples must be an integer"),
        ({"confidence_level": 95}, r"confidence_level must lie in \(0, 1\)"),
    ],
)
def test_wrong_options_are_named(arguments: dict[str, Any], message: str) -> None:
    """An option out of range is a ValueError that names it."""
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(**{"differences": [1.0, 2.0], **arguments})


def test_models_to_compare_have_the_same_classes() -> None:
    """Two models with different numbers of classes cannot be compared row by row."""
    probs, targets = drawn_rows(10, 3, seed=0)
    with pytest.raises(ValueError, match=r"baseline_probs must be \(10, 3\)"):
        compare(probs, drawn_rows(10, 4, seed=0)[0], targets % 3)


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
