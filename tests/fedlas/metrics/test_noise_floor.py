"""The noise floor holds a calibrated classifier; the consistency test: its statistic, its level and its power."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas import metrics
from fedlas.contract.figures import BinnedEstimate
from fedlas.metrics import evaluate
from fedlas.metrics.l2_calibration_error import L2CalibrationError, _redrawn, redrawn_labels
from tests.helpers.drawn_rows import drawn_rows, two_classes

BINNED = ("ece", "adaptive_ece", "classwise_ece")
Array = NDArray[Any]


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
