"""The squared calibration error: unbiased, with intervals that cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.contract.figures import Estimate
from fedlas.metrics import evaluate
from fedlas.metrics.l2_calibration_error import top_label_error
from tests.helpers.drawn_rows import drawn_rows, two_classes

Array = NDArray[Any]


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.3])
def test_the_squared_error_is_unbiased_and_its_interval_covers(gain: float) -> None:
    """Over draws the mean is the true squared error, and 95 % intervals hold it, at 0, near it and away from it."""
    rng, rows, draws = np.random.default_rng(0), 1000, 300
    edges = np.linspace(0.5, 1, 16)
    # Bins of equal mass over uniform confidences: the error of bin b is gain times its mean excess over 1/2.
    true = float(np.mean((gain * ((edges[:-1] + edges[1:]) / 2 - 0.5)) ** 2))
    values, held = [], 0
    for _ in range(draws):
        confidences = 0.5 + 0.5 * rng.random(rows)
        probs, targets = two_classes(confidences, confidences - gain * (confidences - 0.5), rng)
        estimate = top_label_error(probs, targets, num_bins=15).estimate(0.95)
        values.append(estimate.value)
        held += estimate.low <= true <= estimate.high
        assert estimate.low <= estimate.value <= estimate.high
    assert np.mean(values) == pytest.approx(true, abs=4 * np.std(values) / np.sqrt(draws))
    assert held / draws >= 0.92


def test_the_interval_of_a_difference_covers() -> None:
    """The interval holds the true difference of two models on the same rows, one calibrated and one 0.03 too sure."""
    rng, held, draws = np.random.default_rng(0), 0, 300
    for _ in range(draws):
        # Accuracies below 0.97 keep the shift the same in every bin.
        accuracies = 0.5 + 0.47 * rng.random(1000)
        probs, targets = two_classes(accuracies, accuracies, rng)
        sure = np.stack([accuracies + 0.03, 0.97 - accuracies], axis=1)
        ours, theirs = (top_label_error(p, targets, num_bins=15) for p in (sure, probs))
        estimate = ours.minus(theirs, 0.95)
        held += estimate.low <= 0.03**2 <= estimate.high
    assert held / draws >= 0.92


def test_a_perfect_classifier_is_not_promised_too_much() -> None:
    """All right at 0.999: the interval reaches 0 and stays wider than the estimate pretends."""
    probs = np.tile([0.999, 0.001], (100, 1))
    estimate = evaluate(probs, np.zeros(100, dtype=int), num_resamples=50)["calibration_error_l2"]
    assert isinstance(estimate, Estimate)
    assert estimate.low <= estimate.value
    assert estimate.low == 0
    assert estimate.high > 1e-5


def test_one_group_cannot_tell_its_spread() -> None:
    """A single group has no interval for the calibration error."""
    probs, targets = drawn_rows(20, 3, seed=0)
    with pytest.raises(ValueError, match="groups must be at least 2"):
        evaluate(probs, targets, groups=np.zeros(20), num_resamples=10)
