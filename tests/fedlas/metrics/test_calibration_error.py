"""Calibration errors, the confidence gap and CORP agree with the authors' code, torchmetrics and SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlas import metrics
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.metrics import confidence_gap, corp_band, corp_curve
from fedlas.metrics.calibration_error import (
    SplitAccuracy,
    effective_units,
    equal_mass_bins,
    equal_width_bins,
    top_label,
    top_label_gap,
)
from fedlas.metrics.statistics import clustered_mean
from fedlas.report.summary import says_and_is_right
from tests.helpers.drawn_rows import drawn_logits, drawn_rows, rounded, two_classes


def test_bins_are_closed_above() -> None:
    """Bins are (lo, hi], with 0 in the first and 1 in the last."""
    edges = np.linspace(0, 1, 11)
    assert equal_width_bins(edges, 10).tolist() == [0, *range(10)]
    assert equal_width_bins(np.nextafter(edges[1:-1], 1), 10).tolist() == list(range(1, 10))


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=1),
    num_bins=st.integers(1, 20),
)
def test_every_row_falls_in_exactly_one_bin(values: list[float], num_bins: int) -> None:
    """Each binning gives every value one bin in range, larger values no lower bin, and equal values the same."""
    array = np.array(values)
    for binning in (equal_width_bins, equal_mass_bins):
        bins = binning(array, num_bins)
        assert bins.shape == array.shape
        assert bins.min() >= 0
        assert bins.max() < num_bins
        assert (np.diff(bins[np.lexsort((bins, array))]) >= 0).all()
        assert all(len(set(bins[array == value])) == 1 for value in values)


@pytest.mark.parametrize("num_bins", [5, 15])
def test_equal_mass_bins_hold_equally_many_rows(num_bins: int) -> None:
    """Without ties the bins differ by at most one row."""
    sizes = np.bincount(equal_mass_bins(np.random.default_rng(0).random(101), num_bins))
    assert len(sizes) == num_bins
    assert sizes.max() - sizes.min() <= 1


def test_the_reliability_curve_holds_every_row() -> None:
    """Counts add up to N, empty bins are NaN, and the curve's gaps add up to the ECE."""
    probs, targets = drawn_rows(1000, 3)
    curve = metrics.reliability_curve(probs, targets, num_bins=10)
    assert curve.edges.tolist() == np.linspace(0, 1, 11).tolist()
    assert curve.counts.sum() == 1000
    assert np.isnan(curve.accuracy[:3]).all()
    gaps = np.abs(curve.mean_confidence - curve.accuracy) * curve.counts / 1000
    assert np.nansum(gaps) == pytest.approx(metrics.ece(probs, targets, num_bins=10))


VECTORS = np.load(Path(__file__).parents[2] / "data" / "fedlas_vectors.npz")
CASES = sorted({key.split("/")[1] for key in VECTORS.files if key.startswith("metrics/")})
Array = NDArray[Any]


def reference(case: str) -> tuple[torch.Tensor, Array, dict[str, float]]:
    logits = torch.from_numpy(VECTORS[f"metrics/{case}/logits"])
    values = {name: float(VECTORS[f"metrics/{case}/{name}"]) for name in ("ece", "adaece", "cwece")}
    return logits.softmax(dim=1), VECTORS[f"metrics/{case}/targets"], values


# The authors' values that show their flaws, see tests/data/NOTICE.md.
FLAWED_CLASSWISE = {"conf_exactly_one", "all_wrong", "one_sample", "highest_class_absent", "on_bin_edges_f64"}
BINNED = [metrics.ece, metrics.adaptive_ece, metrics.classwise_ece]


@pytest.mark.parametrize("case", [case for case in CASES if case != "on_bin_edges_f32"])
def test_ece_agrees_with_the_authors_code(case: str) -> None:
    """ECE has the authors' value wherever that is sane."""
    probs, targets, values = reference(case)
    assert metrics.ece(probs, targets) == pytest.approx(values["ece"], abs=2e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case not in FLAWED_CLASSWISE])
def test_classwise_ece_agrees_with_the_authors_code(case: str) -> None:
    """Classwise ECE has the authors' value wherever that is sane."""
    probs, targets, values = reference(case)
    assert metrics.classwise_ece(probs, targets) == pytest.approx(values["cwece"], abs=2e-6)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_agrees_with_torchmetrics(num_bins: int) -> None:
    """On confidences away from the bin edges ECE is torchmetrics' l1 calibration error."""
    # With the module, every process of the tests would load all of torchmetrics.
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, targets = drawn_rows(3000, 7)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(targets), num_classes=7, n_bins=num_bins, norm="l1"
    )
    assert metrics.ece(probs, targets, num_bins=num_bins) == pytest.approx(theirs.item(), abs=1e-6)


def test_adaptive_ece_keeps_rows_tied_with_the_lowest_confidence() -> None:
    """All wrong at confidence 1 is an error of 1, not of 0."""
    probs = np.tile([1.0, 0.0], (20, 1))
    for metric in (*BINNED, metrics.calibration_error_l2):
        assert metric(probs, np.ones(20, dtype=int)) == pytest.approx(1.0)


def test_adaptive_ece_by_hand() -> None:
    """Two bins of two rows: |0.65 − 0.5|/2 + |0.85 − 1|/2."""
    confidences = np.array([0.6, 0.9, 0.7, 0.8])
    targets = np.array([1, 0, 0, 0])
    probs = np.stack([confidences, 1 - confidences], axis=1)
    assert metrics.adaptive_ece(probs, targets, num_bins=2) == pytest.approx(0.15)


def test_classwise_ece_counts_classes_without_a_label() -> None:
    """A class that never occurs still counts: (0.3 + 0 + 0.3)/3 where 0.3 goes to a class that is never right."""
    assert metrics.classwise_ece(np.tile([0.7, 0.0, 0.3], (10, 1)), np.zeros(10, dtype=int)) == pytest.approx(0.6 / 3)


def test_signed_parts_add_up_to_the_ece() -> None:
    """A bin at 0.9 with accuracy 1 and one at 0.6 with accuracy 0: 0.05 under, 0.3 over, together 0.35."""
    probs = [[0.9, 0.1], [0.4, 0.6]]
    assert metrics.signed_ece(probs, [0, 0]) == pytest.approx((0.3, 0.05))
    assert metrics.ece(probs, [0, 0]) == pytest.approx(0.35)


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
    """Steps that are reported together are near each other, hold the same rows, and leave the score's parts alone."""
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
