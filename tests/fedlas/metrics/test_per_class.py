"""Metrics by class agree with scikit-learn, the worst first; Holm's procedure by hand; subgroups too small to test."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from fedlas import metrics
from fedlas.metrics.per_class import chance_if_calibrated, chance_if_no_worse, holm, share
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
