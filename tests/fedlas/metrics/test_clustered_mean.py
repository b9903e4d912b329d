"""Means of clustered rows: against SciPy's t interval, whole groups, weights, and how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlas.metrics.clustered_mean import clustered_mean


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
    """Of 400 draws of 20 groups that vary together, about 95 % of the 95 % intervals hold the true mean of 0."""
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
