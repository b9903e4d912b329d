"""CORP: the curve is the isotonic fit, the score falls into its parts, the band holds calibrated curves."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.metrics import corp_band, corp_curve
from fedlas.metrics.calibration_error import top_label
from tests.helpers.drawn_rows import Array, drawn_rows, rounded, two_classes


def min_max(confidences: Array, correct: Array) -> Array:
    """Isotonic regression by its formula: the greatest, over beginnings, of the least mean of a run through the row."""
    values = np.unique(confidences)
    cells = [correct[confidences == value] for value in values]

    def mean(a: int, b: int) -> float:
        return float(np.concatenate(cells[a : b + 1]).mean())

    n = len(values)
    fitted = [max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]
    return np.array(fitted)[np.searchsorted(values, confidences)]


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_the_isotonic_fit(seed: int) -> None:
    """Each row's step has the value of the min-max formula, with and without equal confidences."""
    probs, targets = drawn_rows(40, 3, seed=seed, scale=2)
    for rows in (probs, rounded(probs)):
        confidences, correct = top_label(rows, targets)
        curve = corp_curve(rows, targets)
        step = np.searchsorted(curve.ends, confidences)
        assert (curve.starts[step] <= confidences).all()
        assert curve.accuracy[step] == pytest.approx(min_max(confidences, correct))
        assert np.bincount(step).tolist() == curve.counts.tolist()


def test_the_score_falls_into_its_parts() -> None:
    """Miscalibration − discrimination + uncertainty is the Brier score of the top label; no part is negative."""
    for scale in (0.5, 1.0, 3.0):
        probs, targets = drawn_rows(500, 4, scale=scale)
        confidences, correct = top_label(probs, targets)
        curve = corp_curve(probs, targets)
        whole = curve.miscalibration - curve.discrimination + curve.uncertainty
        assert whole == pytest.approx(float(((confidences - correct) ** 2).mean()))
        assert min(curve.miscalibration, curve.discrimination, curve.uncertainty) >= 0
        assert curve.uncertainty == pytest.approx(float(correct.var()))


def test_only_miscalibration_knows_the_scale_of_confidences() -> None:
    """Squared confidences keep their order: curve and discrimination stay, miscalibration alone grows."""
    rng = np.random.default_rng(0)
    confidences = 0.75 + 0.25 * rng.random(3000)
    probs, targets = two_classes(confidences, confidences, rng)
    squared = np.stack([confidences**2, 1 - confidences**2], axis=1)
    right, wrong = corp_curve(probs, targets), corp_curve(squared, targets)
    assert wrong.accuracy == pytest.approx(right.accuracy)
    assert wrong.starts == pytest.approx(right.starts**2)
    assert wrong.discrimination == pytest.approx(right.discrimination)
    assert right.miscalibration < 0.005 < 0.01 < wrong.miscalibration


def test_one_confidence_is_one_step() -> None:
    """A model that is always equally sure tells no rows apart; a miscalibration of 0.1² is what is left."""
    curve = corp_curve([[0.8, 0.2]] * 10, [0] * 7 + [1] * 3)
    assert (curve.starts.tolist(), curve.ends.tolist(), curve.accuracy.tolist()) == ([0.8], [0.8], [0.7])
    assert (curve.miscalibration, curve.discrimination) == (pytest.approx(0.01), pytest.approx(0))


def test_many_steps_are_told_in_few() -> None:
    """Steps that are told together are near each other, hold the same rows, and leave the score's parts alone."""
    probs, targets = drawn_rows(20_000, 3)
    whole, told = corp_curve(probs, targets), corp_curve(probs, targets, max_steps=11)
    assert len(told.counts) <= 11 < len(whole.counts)
    assert told.counts.sum() == whole.counts.sum()
    assert np.abs(told.accuracy[np.searchsorted(told.ends, whole.starts)] - whole.accuracy).max() <= 0.1
    assert (told.starts[1:] > told.ends[:-1]).all()
    assert told.miscalibration == whole.miscalibration
    with pytest.raises(ValueError, match="max_steps"):
        corp_curve(probs, targets, max_steps=1)


@pytest.mark.parametrize("num_rows", [400, 5000])
def test_the_band_holds_the_curve_of_a_calibrated_model(num_rows: int) -> None:
    """Point by point about 95 % of calibrated curves lie in the band, also where confidences are joined to runs."""
    held = []
    for seed in range(30):
        probs, targets = drawn_rows(num_rows, 3, seed=seed)
        band, curve = corp_band(probs, num_resamples=100, seed=seed), corp_curve(probs, targets)
        values = curve.accuracy[np.minimum(np.searchsorted(curve.ends, band.confidence), len(curve.ends) - 1)]
        held.append(((band.low <= values + 1e-9) & (values <= band.high + 1e-9)).mean())
    assert 0.9 <= np.mean(held) <= 0.985


def test_the_band_shows_an_overconfident_model() -> None:
    """The curve of a model that is wrong too often leaves the band; seeds repeat, and points are bounded."""
    probs, targets = drawn_rows(3000, 3, scale=3)
    band, curve = corp_band(probs), corp_curve(probs, targets)
    values = curve.accuracy[np.minimum(np.searchsorted(curve.ends, band.confidence), len(curve.ends) - 1)]
    assert (values < band.low).mean() > 0.5
    assert len(band.confidence) <= 100
    assert (np.diff(band.confidence) > 0).all()
    assert (corp_band(probs).low == band.low).all()
