"""The squared calibration error: unbiased, with intervals that cover; the noise floor and the consistency test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas import metrics
from fedlas.contract.figures import BinnedEstimate, Estimate
from fedlas.metrics import evaluate
from fedlas.metrics.l2_calibration_error import L2CalibrationError, _redrawn, redrawn_labels, top_label_error
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


BINNED = ("ece", "adaptive_ece", "classwise_ece")


def test_labels_are_redrawn_with_the_models_probabilities() -> None:
    """Frequencies of redrawn labels are the probabilities, and classes of probability 0 are never drawn."""
    probs = np.array([[0.5, 0.0, 0.3, 0.2], [0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.4, 0.6]])
    labels = np.concatenate(list(redrawn_labels(probs, 40_000, seed=0)))
    frequencies = np.stack([(labels == k).mean(axis=0) for k in range(4)], axis=1)
    assert np.abs(frequencies - probs).max() < 0.01
    assert (frequencies[probs == 0] == 0).all()


@pytest.mark.parametrize("name", BINNED)
def test_a_calibrated_classifier_falls_within_its_noise_floor(name: str) -> None:
    """The binned errors of a perfectly calibrated classifier lie in their floors in about 95 % of draws."""
    held, draws = 0, 150
    for seed in range(draws):
        probs, targets = drawn_rows(300, 4, seed=seed)
        estimate = evaluate(probs, targets, num_resamples=200, seed=seed)[name]
        assert isinstance(estimate, BinnedEstimate)
        held += estimate.floor_low <= estimate.value <= estimate.floor_high
    assert 0.90 <= held / draws <= 0.99


def test_the_noise_floor_is_the_published_one() -> None:
    """At N = 1,000 a calibrated model scores an ECE around 2.5 %; an overconfident one lies above its floor."""
    rng = np.random.default_rng(0)
    probs, targets = two_classes(0.5 + 0.5 * rng.random(1000), np.full(1000, 0.6), rng)
    estimate = evaluate(probs, targets)["ece"]
    assert isinstance(estimate, BinnedEstimate)
    assert 0.005 < estimate.floor_low < 0.025 < estimate.floor_high < 0.06
    assert estimate.value > estimate.floor_high


def test_the_consistency_band_holds_a_calibrated_curve() -> None:
    """Bin by bin the accuracy of a calibrated model lies in the band, NaN where the bin is empty."""
    probs, targets = drawn_rows(5000, 3, seed=1)
    band, curve = metrics.consistency_band(probs), metrics.reliability_curve(probs, targets)
    filled = curve.counts > 0
    assert np.isnan(band.low[~filled]).all()
    inside = (band.low <= curve.accuracy) & (curve.accuracy <= band.high)
    assert inside[filled].mean() >= 0.8
    assert (band.low[filled] < curve.mean_confidence[filled]).all()


def test_the_redrawn_statistic_is_the_squared_error() -> None:
    """All draws at once give what `L2CalibrationError` gives one by one from the same draws; bins of one row too."""
    probs, _ = drawn_rows(200, 3, seed=1)
    for confidences in (probs.max(axis=1), np.append(np.full(40, 0.5), 0.99)):
        hits = (np.random.default_rng(4).random((5, len(confidences))) < confidences).astype(float)
        expected = [L2CalibrationError(confidences, row, num_bins=10).value for row in hits]
        assert _redrawn(confidences, 10, 5, 4) == pytest.approx(np.array(expected), abs=1e-12)


def test_the_calibration_test_keeps_its_level_and_finds_overconfidence() -> None:
    """Calibrated: p ≤ 0.1 in about 10 % of draws (at most 19 of 100 by chance); three times too sure: always."""
    small = [metrics.calibration_test(*drawn_rows(300, 3, seed=s), num_draws=99).p_value <= 0.1 for s in range(100)]
    assert 2 <= sum(small) <= 19
    found = [metrics.calibration_test(*drawn_rows(300, 3, seed=s, scale=3), num_draws=99).p_value for s in range(20)]
    assert max(found) == 0.01
