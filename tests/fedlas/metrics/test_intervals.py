"""What intervals and noise floors claim holds in simulation, where the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas import metrics
from fedlas.metrics import BinnedEstimate, Estimate, compare, evaluate, paired_bootstrap
from fedlas.metrics.bootstrap import ResamplingUnits
from fedlas.metrics.l2_calibration_error import top_label_error
from fedlas.metrics.noise_floor import redrawn_labels
from fedlas.metrics.selective import RiskCoverage

Array = NDArray[Any]
RESAMPLED = ("accuracy", "nll", "brier", "aurc")
BINNED = ("ece", "adaptive_ece", "classwise_ece")


def softmax(logits: Array) -> Array:
    weights: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def classifier(rows: int, classes: int, *, seed: int, scale: float = 1.0) -> tuple[Array, Array]:
    """Probabilities softmax(scale·s) and labels drawn from softmax(s): calibrated for scale 1."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, classes))
    labels = (rng.random((rows, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return softmax(scale * logits), labels


def two_classes(confidences: Array, accuracies: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    wrong = rng.random(len(confidences)) >= accuracies
    return np.stack([confidences, 1 - confidences], axis=1), wrong.astype(np.int64)


def test_evaluate_reports_the_metrics_themselves() -> None:
    """The report holds all eight in order, each with the value of its own function inside its interval."""
    probs, targets = classifier(400, 5, seed=0, scale=1.5)
    report = evaluate(probs, targets, num_resamples=200)
    assert tuple(report) == metrics.METRICS
    for name, estimate in report.items():
        assert estimate.value == pytest.approx(getattr(metrics, name)(probs, targets), rel=1e-12)
        assert isinstance(estimate, BinnedEstimate if name in BINNED else Estimate)
        if isinstance(estimate, Estimate):
            assert estimate.low < estimate.value < estimate.high
    assert set(report["ece"].as_dict()) == {"value", "floor_low", "floor_high"}
    assert set(report["nll"].as_dict()) == {"value", "low", "high"}


def test_compare_reports_the_differences() -> None:
    """Every figure is that of the first model minus that of the second, in opposite directions when swapped."""
    probs, targets = classifier(400, 5, seed=0)
    base, _ = classifier(400, 5, seed=0, scale=2)
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
    probs, targets = classifier(200, 4, seed=1)
    for name, estimate in compare(probs, probs, targets, num_resamples=50).items():
        if name != "calibration_error_l2":
            assert set(estimate.as_dict().values()) == {0.0}
        assert estimate.value == 0.0


def test_the_seed_decides_everything() -> None:
    """The same seed gives the same report, another seed another interval."""
    probs, targets = classifier(100, 3, seed=2)
    first, again, other = (evaluate(probs, targets, num_resamples=100, seed=s) for s in (5, 5, 6))
    assert first == again
    assert first["nll"] != other["nll"]
    assert first["ece"] != other["ece"]


def test_an_interval_from_counts_is_that_of_resampled_rows() -> None:
    """Means and AURC from counts equal those computed on the resampled rows themselves, ties included."""
    probs, targets = classifier(60, 3, seed=3)
    probs = np.round(probs, 1) + 1e-9
    probs /= probs.sum(axis=1, keepdims=True)
    units = ResamplingUnits(None, 60)
    counts = next(iter(units.resamples(20, seed=0)))
    areas = RiskCoverage(probs, targets).areas(units.of_rows(counts))
    scores = metrics.row_scores(probs, targets, score="brier")
    means = units.means(counts, units.sums(scores[:, None]))[:, 0]
    for row, area, mean in zip(counts, areas, means, strict=True):
        held = np.repeat(np.arange(60), row)
        assert area == pytest.approx(metrics.aurc(probs[held], targets[held]), rel=1e-12)
        assert mean == pytest.approx(metrics.brier(probs[held], targets[held]), rel=1e-12)


def test_groups_are_resampled_whole() -> None:
    """Every row five times over has the interval of the rows alone if grouped, and a shorter one if not."""
    differences = np.random.default_rng(0).normal(size=200)
    alone = paired_bootstrap(differences)
    five = np.repeat(differences, 5)
    grouped = paired_bootstrap(five, groups=np.repeat([f"patient {i:03}" for i in range(200)], 5))
    ungrouped = paired_bootstrap(five)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), rel=1e-9)
    assert ungrouped.high - ungrouped.low < 0.6 * (alone.high - alone.low)


def test_evaluate_with_groups_widens_every_interval() -> None:
    """Copies of rows in one group do not narrow an interval, whatever the metric."""
    probs, targets = classifier(150, 3, seed=4, scale=2)
    alone = evaluate(probs, targets, num_resamples=300)
    copies = evaluate(
        np.repeat(probs, 4, axis=0),
        np.repeat(targets, 4),
        groups=np.repeat(np.arange(150), 4),
        num_resamples=300,
    )
    for name in (*RESAMPLED, "calibration_error_l2"):
        one, four = alone[name], copies[name]
        assert isinstance(one, Estimate)
        assert isinstance(four, Estimate)
        assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.35)


def test_paired_bootstrap_covers_the_true_mean() -> None:
    """Nominal 95 % intervals hold the true mean in about 95 % of draws."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        estimate = paired_bootstrap(rng.normal(0.3, 1, size=200), num_resamples=300, seed=seed)
        held += estimate.low <= 0.3 <= estimate.high
    assert 0.90 <= held / 300 <= 0.985


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
    probs, targets = classifier(10, 3, seed=0)
    with pytest.raises(ValueError, match=r"baseline_probs must be \(10, 3\)"):
        compare(probs, classifier(10, 4, seed=0)[0], targets % 3)


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
        probs, targets = classifier(300, 4, seed=seed)
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
    probs, targets = classifier(5000, 3, seed=1)
    band, curve = metrics.consistency_band(probs), metrics.reliability_curve(probs, targets)
    filled = curve.counts > 0
    assert np.isnan(band.low[~filled]).all()
    inside = (band.low <= curve.accuracy) & (curve.accuracy <= band.high)
    assert inside[filled].mean() >= 0.8
    assert (band.low[filled] < curve.mean_confidence[filled]).all()


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
    """Of two models on the same rows, one calibrated and one 0.03 too sure, the interval holds the true difference."""
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
    probs, targets = classifier(20, 3, seed=0)
    with pytest.raises(ValueError, match="groups must be at least 2"):
        evaluate(probs, targets, groups=np.zeros(20), num_resamples=10)
