"""Metrics by class and by slice: the one that fails is named, and chance names none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from fedlas import metrics
from fedlas.metrics.per_class import chance_if_calibrated, chance_if_no_worse, holm, share, slice_names
from tests.helpers.drawn_rows import drawn_rows


def test_holm_by_hand() -> None:
    """Sorted, multiplied, never falling, at most 1; tests that were not made cost nothing."""
    adjusted = metrics.holm_adjusted([0.04, 0.001, np.nan, 0.03])
    assert adjusted[[0, 1, 3]] == pytest.approx([0.06, 0.003, 0.06])
    assert np.isnan(adjusted[2])
    with pytest.raises(ValueError, match="p_values must be"):
        metrics.holm_adjusted([1.5])


def test_holm_is_holm() -> None:
    """The smallest p-value is tested at level / m and a failure stops everything after it."""
    assert holm([0.02, 0.04], 0.05) == ([0.025, 0.05], [True, True])
    assert holm([0.03, 0.001], 0.05) == ([0.05, 0.025], [True, True])
    assert holm([0.03, 0.04], 0.05)[1] == [False, False]


def test_nothing_is_claimed_of_nothing() -> None:
    """No rows have no share; too few rows, or too few groups, have no p-value."""
    assert share(np.zeros(0), None, 0.95) is None
    assert np.isnan(chance_if_calibrated(np.full(19, 0.5), np.ones(19), None))
    assert np.isnan(chance_if_calibrated(np.full(90, 0.5), np.ones(90), np.repeat(np.arange(9), 10)))
    assert np.isnan(chance_if_no_worse(np.ones(50), np.ones(50, dtype=bool), None))


def test_the_class_table_agrees_with_scikit_learn() -> None:
    """Recall, precision and support of every class; Brier parts add up to the Brier score; gaps are differences."""
    probs, targets = drawn_rows(600, 5, seed=3, scale=1.5)
    table = sorted(metrics.class_table(probs, targets), key=lambda row: row.index)
    precision, recall, _, support = precision_recall_fscore_support(targets, probs.argmax(axis=1), labels=range(5))
    for row in table:
        assert row.recall is not None
        assert row.precision is not None
        assert row.gap is not None
        assert row.recall.value == pytest.approx(recall[row.index])
        assert row.precision.value == pytest.approx(precision[row.index])
        assert row.num_rows == support[row.index]
        said = probs.argmax(axis=1) == row.index
        assert row.gap.value == pytest.approx(probs[said, row.index].mean() - precision[row.index])
    assert sum(row.brier for row in table) == pytest.approx(metrics.brier(probs, targets))


def test_the_class_that_lies_comes_first() -> None:
    """One class whose confidence is inflated is first and shown; calibrated ones are not."""
    probs, targets = drawn_rows(3000, 4, seed=4)
    liar = probs.argmax(axis=1) == 2
    probs[liar] = 0.5 * probs[liar] + 0.5 * np.eye(4)[2]
    first, *others = metrics.class_table(probs, targets)
    assert first.index == 2
    assert first.p_adjusted is not None
    assert first.p_adjusted < 0.001
    assert all(row.p_adjusted is None or row.p_adjusted > 0.05 for row in others)


def test_class_errors_are_unbiased_and_covered() -> None:
    """For a calibrated model the class errors average to 0 and their intervals hold it in at least 90 % of cases."""
    found = [e for s in range(25) for e in metrics.class_calibration_errors(*drawn_rows(400, 4, seed=s))]
    values = np.array([e.value for e in found])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert np.mean([e.low <= 0 <= e.high for e in found]) >= 0.9


def test_a_thousand_classes_show_fifty() -> None:
    """The table stays short, and classes without rows or answers have no figures rather than wrong ones."""
    probs, targets = drawn_rows(300, 1000, seed=1)
    table = metrics.class_table(probs, targets)
    assert len(table) == 50
    for row in table:
        assert (row.recall is None) == (row.num_rows == 0)
        assert (row.precision is None) == (row.num_predicted == 0)


def test_the_slice_that_fails_is_named_and_chance_names_none() -> None:
    """Flipped labels in one of eight slices: shown as miscalibrated and as worse; without them nothing is shown."""
    probs, targets = drawn_rows(2000, 3, seed=6)
    site = np.random.default_rng(1).choice(list("abcdefgh"), 2000)
    clean = metrics.slice_table(probs, targets, {"site": site}, num_resamples=50)
    assert all(p is None or p > 0.05 for row in clean.rows for p in (row.p_miscalibrated, row.p_worse))
    broken = np.where((site == "d") & (np.random.default_rng(2).random(2000) < 0.4), (targets + 1) % 3, targets)
    worst = metrics.slice_table(probs, broken, {"site": site}, num_resamples=50).rows[0]
    assert (worst.column, worst.value, worst.num_rows) == ("site", "d", int((site == "d").sum()))
    assert worst.p_miscalibrated is not None
    assert worst.p_worse is not None
    assert max(worst.p_miscalibrated, worst.p_worse) < 0.01


def test_slices_are_the_metrics_of_their_rows() -> None:
    """Accuracy, confidence, Brier and NLL of each slice are those of its rows alone."""
    probs, targets = drawn_rows(300, 3, seed=7)
    column = np.where(np.arange(300) % 3 == 0, "x", "y")
    for row in metrics.slice_table(probs, targets, {"c": column}, num_resamples=50).rows:
        inside = column == row.value
        for name in ("accuracy", "brier", "nll"):
            assert getattr(row, name).value == pytest.approx(getattr(metrics, name)(probs[inside], targets[inside]))
        assert row.gap.value == pytest.approx(row.mean_confidence - row.accuracy.value)


def test_chance_rarely_names_a_slice() -> None:
    """Calibrated models with ten random slices: a false alarm in about 5 % of draws or fewer (at most 9 of 60)."""
    alarms = 0
    for seed in range(60):
        probs, targets = drawn_rows(400, 3, seed=seed)
        slices = {"s": np.random.default_rng(seed).integers(0, 10, 400)}
        table = metrics.slice_table(probs, targets, slices, num_resamples=2)
        alarms += any(p is not None and p <= 0.05 for row in table.rows for p in (row.p_miscalibrated, row.p_worse))
    assert alarms <= 9


def test_columns_become_slices() -> None:
    """Missing values are a slice, few numbers stay, many numbers become quarters, names by the hundred are skipped."""
    assert slice_names(np.array([1.0, 2.0, np.nan])).tolist() == ["1", "2", "(missing)"]
    quarters, sizes = np.unique(slice_names(np.random.default_rng(0).normal(size=400)), return_counts=True)
    assert (len(quarters), sizes.tolist()) == (4, [100] * 4)
    probs, targets = drawn_rows(300, 3)
    table = metrics.slice_table(probs, targets, {"id": [f"row {i}" for i in range(300)]}, num_resamples=2)
    assert (table.skipped, table.num_slices) == (("id",), 0)
    with pytest.raises(ValueError, match=r"slices\['a'\] must be \(300,\)"):
        metrics.slice_table(probs, targets, {"a": ["x"]})
