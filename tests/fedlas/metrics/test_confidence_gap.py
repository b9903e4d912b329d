"""The confidence gap: its figures and its chance; the accuracy of a split: its standard error, and splits apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.metrics import confidence_gap
from fedlas.metrics.calibration_error import SplitAccuracy, effective_units, top_label, top_label_gap
from fedlas.metrics.statistics import clustered_mean
from fedlas.report.summary import says_and_is_right
from tests.helpers.drawn_rows import drawn_logits


def test_the_figures_are_means_with_the_error_of_the_textbook() -> None:
    """Mean confidence, accuracy, and the standard error of a mean: of single rows, whole groups, and weighted ones."""
    logits, targets = drawn_logits(600, 4, seed=3)
    probs, groups, weights = softmax(2 * logits), np.arange(600) // 10, 1.0 + np.arange(600) % 3
    confidences, right = top_label(probs, targets)
    found = confidence_gap(probs, targets)
    assert found.mean_confidence == pytest.approx(confidences.mean())
    assert (found.accuracy, found.gap) == pytest.approx((right.mean(), confidences.mean() - right.mean()))
    assert found.standard_error == pytest.approx((confidences - right).std(ddof=1) / np.sqrt(600))
    weighted = top_label_gap(confidences, right, groups=groups, weights=weights)
    mean = clustered_mean(confidences - right, groups=groups, weights=weights, confidence_level=0.95)
    assert weighted.gap == pytest.approx(mean.value)
    assert weighted.standard_error == pytest.approx((mean.high - mean.value) / 2.0009954)  # Student's, 59 degrees
    units = effective_units(300, groups=np.arange(300) // 10)
    fitted = confidence_gap(probs, targets, groups=groups, fitted_units=units)
    alone = confidence_gap(probs, targets, groups=groups)
    assert fitted.standard_error == pytest.approx(alone.standard_error * np.sqrt(1 + 60 / 30))


def test_rows_that_are_all_right_are_not_accused() -> None:
    """Twenty answers of 99 % that are all right have no spread, and no gap beyond chance; sure and wrong ones have."""
    assert not confidence_gap(np.tile([0.99, 0.01], (20, 1)), np.zeros(20, int)).beyond_chance
    assert confidence_gap(np.tile([1.0, 0.0], (20, 1)), np.ones(20, int)).beyond_chance


def test_a_correct_temperature_is_accused_in_one_draw_of_twenty_at_most() -> None:
    """Fitted on 1,000 rows, judged on 2,000, 200 draws; without the chance of the 1,000 it would be one of five."""
    fitted, alone = 0, 0
    for seed in range(200):
        logits, targets = drawn_logits(3000, 5, seed=seed)
        temperature = TemperatureScaling().fit(3 * logits[:1000], targets[:1000])
        probs, judged = softmax(temperature(3 * logits[1000:])), targets[1000:]
        fitted += "more than" in says_and_is_right(confidence_gap(probs, judged, fitted_units=1000), "of the rows")
        alone += confidence_gap(probs, judged).beyond_chance
    assert fitted <= 10 < alone


def test_rows_and_groups_have_the_errors_of_the_textbook() -> None:
    """Single rows have √(p(1−p)/(N−1)); groups of one size have the standard error of the mean of their accuracies."""
    correct = np.random.default_rng(0).random(400) < 0.8
    assert SplitAccuracy.of(correct).error == pytest.approx(correct.std(ddof=1) / 20)
    of_groups = correct.reshape(40, 10).mean(axis=1)
    together = SplitAccuracy.of(correct, groups=np.repeat(np.arange(40), 10))
    assert (together.value, together.num_units) == (pytest.approx(correct.mean()), 40)
    assert together.error == pytest.approx(of_groups.std(ddof=1) / np.sqrt(40))


def test_a_weight_of_two_is_the_row_twice() -> None:
    """Weights of whole groups give the accuracy and the error of the population that they stand for."""
    correct, groups = np.random.default_rng(1).random(300) < 0.7, np.arange(300) % 30
    twice = np.arange(300) % 3 == 0
    weighted = SplitAccuracy.of(correct, groups=groups, weights=1 + twice)
    repeated = SplitAccuracy.of(np.repeat(correct, 1 + twice), groups=np.repeat(groups, 1 + twice))
    assert (weighted.value, weighted.error) == (pytest.approx(repeated.value), pytest.approx(repeated.error))


def grouped(rng: np.random.Generator, mean: float, num_groups: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Groups of 25 rows; an easy group is always right, the others never."""
    return np.repeat(rng.random(num_groups) < mean, 25), np.repeat(np.arange(num_groups), 25)


def test_chance_among_groups_is_no_sign() -> None:
    """Equal splits of patients are apart in under 1 % of draws, by rows in half; easier patients are still found."""
    rng = np.random.default_rng(2)
    alarms = {"groups": 0, "rows": 0, "easier": 0}
    for _ in range(300):
        (before, groups), (now, others), (easier, _) = (grouped(rng, mean, 60) for mean in (0.8, 0.8, 1.0))
        judged = SplitAccuracy.of(now, groups=others)
        alarms["groups"] += SplitAccuracy.of(before, groups=groups).is_apart(judged)
        alarms["rows"] += SplitAccuracy.of(before).is_apart(SplitAccuracy.of(now))
        alarms["easier"] += SplitAccuracy.of(easier, groups=groups).is_apart(judged)
    assert alarms["groups"] <= 3
    assert alarms["rows"] > 100
    assert alarms["easier"] > 150


def test_one_group_tells_nothing() -> None:
    """How patients vary cannot be seen in one patient, so nothing is suspected."""
    right, wrong = np.ones(500), np.zeros(500)
    assert not SplitAccuracy.of(right, groups=np.zeros(500)).is_apart(SplitAccuracy.of(wrong))
