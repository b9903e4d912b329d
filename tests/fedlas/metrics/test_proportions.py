"""Proportions: SciPy's intervals and exact tests agree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlas.metrics.statistics import chance_of_so_few, chance_of_sum, effective_rows, wilson


def test_wilson_agrees_with_scipy() -> None:
    """Wilson's interval is SciPy's for counts from none to all."""
    for hits, rows in ((0, 12), (5, 12), (12, 12), (333, 1000)):
        expected = stats.binomtest(hits, rows).proportion_ci(0.9, method="wilson")
        low, high = wilson(hits / rows, rows, 0.9)
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("rows", [1, 30, 399, 2000])
def test_the_chance_of_a_sum_is_the_binomial_where_all_are_equal(rows: int) -> None:
    """The chance is twice the smaller tail, exact when small and near when large."""
    tolerance = 1e-9 if rows < 400 else 2e-3
    for total in sorted({0, rows // 4, rows // 3, rows}):
        binomial = stats.binom(rows, 0.3)
        expected = min(1.0, 2 * min(binomial.cdf(total), binomial.sf(total - 1)))
        assert chance_of_sum(np.full(rows, 0.3), total) == pytest.approx(expected, abs=tolerance)


def test_certain_events_are_counted() -> None:
    """Probabilities 0 and 1 leave nothing to chance, and what cannot happen has chance 0."""
    assert chance_of_sum(np.array([1.0, 1.0, 0.0]), 2) == 1
    assert chance_of_sum(np.array([1.0, 1.0, 0.0]), 1) == 0


def test_so_few_is_fishers_exact_test() -> None:
    """The one-sided hypergeometric tail."""
    for hits, size, everything, rows in ((3, 10, 60, 100), (0, 5, 5, 10), (40, 50, 900, 1000)):
        table = [[hits, size - hits], [everything - hits, rows - size - everything + hits]]
        expected = stats.fisher_exact(table, alternative="less").pvalue
        assert chance_of_so_few(hits, size, everything, rows) == pytest.approx(expected, rel=1e-8)


def test_copies_in_groups_are_worth_one_row() -> None:
    """Five copies of each row count as the rows alone; independent rows in groups count almost fully."""
    values = (np.random.default_rng(0).random(400) < 0.3).astype(float)
    assert effective_rows(np.repeat(values, 5), np.repeat(np.arange(400), 5)) == pytest.approx(400, rel=0.01)
    assert effective_rows(values, np.repeat(np.arange(200), 2)) > 300
    assert effective_rows(np.ones(100), np.repeat(np.arange(10), 10)) == 10
