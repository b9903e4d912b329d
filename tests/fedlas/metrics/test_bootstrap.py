"""Bootstrap intervals cover, with whole groups; means of clustered rows agree with SciPy's t interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlas import metrics
from fedlas.metrics import paired_bootstrap
from fedlas.metrics.selective import RiskCoverage
from fedlas.metrics.statistics import ResamplingUnits, clustered_mean
from tests.helpers.drawn_rows import drawn_rows


def test_an_interval_from_counts_is_that_of_resampled_rows() -> None:
    """Means and AURC from counts equal those computed on the resampled rows themselves, ties included."""
    probs, targets = drawn_rows(60, 3, seed=3)
    probs = np.round(probs, 1) + 1e-9
    probs /= probs.sum(axis=1, keepdims=True)
    units = ResamplingUnits(None, 60)
    counts = next(iter(units.resamples(20, seed=0)))
    areas = RiskCoverage(probs, targets).areas(units.of_rows(counts))
    means = units.means(counts, units.sums(metrics.row_scores(probs, targets, score="brier")[:, None]))[:, 0]
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


def test_paired_bootstrap_covers_the_true_mean() -> None:
    """Nominal 95 % intervals hold the true mean in about 95 % of draws."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        estimate = paired_bootstrap(rng.normal(0.3, 1, size=200), num_resamples=300, seed=seed)
        held += estimate.low <= 0.3 <= estimate.high
    assert 0.90 <= held / 300 <= 0.985


def test_rows_of_their_own_have_students_interval() -> None:
    """Without groups it is the one-sample t interval, as SciPy computes it."""
    values = np.random.default_rng(0).normal(size=40)
    found = clustered_mean(values, confidence_level=0.9)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), expected.low, expected.high))


def test_groups_count_whole() -> None:
    """Rows sent five times, as groups, say what they say once; a single group leaves the rows to count."""
    values = np.random.default_rng(1).normal(size=30)
    once, repeated = clustered_mean(values), np.repeat(values, 5)
    groups = np.repeat([f"patient {i}" for i in range(30)], 5)
    assert vars(clustered_mean(repeated, groups=groups)) == pytest.approx(vars(once))
    assert clustered_mean(values, groups=["one"] * 30) == once


def test_weights_count_as_rows_do() -> None:
    """Weights of 1 and 3 give the mean of rows repeated so often, and their scale does not matter."""
    values, weights = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1, 3, 1, 3])
    found = clustered_mean(values, weights=weights)
    assert found.value == pytest.approx(np.repeat(values, weights).mean())
    assert vars(clustered_mean(values, weights=weights * 10)) == pytest.approx(vars(found))


def test_the_interval_covers_the_truth() -> None:
    """About 95 % of the 95 % intervals, over 400 draws of 20 groups that vary together, hold the true mean of 0."""
    rng, groups = np.random.default_rng(2), np.repeat(np.arange(20), 10)
    covered = 0
    for _ in range(400):
        found = clustered_mean(rng.normal(size=20)[groups] + rng.normal(size=200), groups=groups)
        covered += found.low < 0 < found.high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": [1.0]}, "values must be"),
        ({"values": [1.0, np.nan]}, "values must be"),
        ({"values": [1.0, 2.0], "weights": [1.0]}, "weights must be"),
        ({"values": [1.0, 2.0], "groups": [1]}, "groups must be"),
    ],
)
def test_what_has_no_interval_is_refused(settings: dict[str, object], message: str) -> None:
    """One row, NaN, and weights or groups of another number of rows: the argument is named."""
    with pytest.raises(ValueError, match=message):
        clustered_mean(**settings)  # type: ignore[arg-type]
