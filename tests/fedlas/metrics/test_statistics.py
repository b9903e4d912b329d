"""Intervals and means of rows are those of SciPy, with whole groups; what all metrics accept and do not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedlas import metrics
from fedlas.metrics import paired_bootstrap
from fedlas.metrics.selective import RiskCoverage
from fedlas.metrics.statistics import (
    ResamplingUnits,
    chance_of_so_few,
    chance_of_sum,
    clustered_mean,
    effective_rows,
    wilson,
)
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


BINNED = [metrics.ece, metrics.adaptive_ece, metrics.classwise_ece]
EVERY: list[Callable[..., float]] = [
    metrics.accuracy,
    metrics.nll,
    metrics.brier,
    metrics.ece,
    metrics.adaptive_ece,
    metrics.classwise_ece,
    metrics.calibration_error_l2,
    metrics.aurc,
]
Array = NDArray[Any]


def changed(rows: Array, row: int, values: list[float]) -> Array:
    copy = rows.copy()
    copy[row] = values
    return copy


PROBS, TARGETS = np.tile([0.7, 0.2, 0.1], (6, 1)), np.array([0, 1, 2, 0, 1, 2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 60), num_bins=st.integers(1, 20))
def test_no_metric_depends_on_the_order_of_the_rows(seed: int, rows: int, num_bins: int) -> None:
    """Shuffled rows, rounded so that confidences tie, have the same metrics."""
    probs, targets = drawn_rows(rows, 3, seed=seed)
    probs = np.round(probs, 1)
    probs[:, 0] += 1 - probs.sum(axis=1)
    probs = np.abs(probs) / np.abs(probs).sum(axis=1, keepdims=True)
    order = np.random.default_rng(seed).permutation(rows)
    for metric in BINNED:
        shuffled = metric(probs[order], targets[order], num_bins=num_bins)
        assert metric(probs, targets, num_bins=num_bins) == pytest.approx(shuffled, abs=1e-12)
    assert metrics.aurc(probs, targets) == pytest.approx(metrics.aurc(probs[order], targets[order]), abs=1e-12)


@pytest.mark.parametrize("metric", EVERY)
def test_tensors_and_arrays_give_the_same_float(metric: Callable[..., float]) -> None:
    """A CPU tensor, even one with a gradient, is as good as an array; the result is a Python float."""
    probs, targets = drawn_rows(100, 4)
    value = metric(torch.from_numpy(probs).requires_grad_(), torch.from_numpy(targets))
    assert isinstance(value, float)
    assert value == metric(probs, targets)


@pytest.mark.parametrize("metric", EVERY)
@pytest.mark.parametrize(
    ("probs", "targets", "message"),
    [
        (changed(PROBS, 3, [math.nan, 0.5, 0.5]), TARGETS, "probs must be finite, got nan in row 3 of 6"),
        (changed(PROBS, 2, [1.1, -0.2, 0.1]), TARGETS, "probs must not be negative, got -0.2 in row 2 of 6"),
        (changed(PROBS, 1, [0.7, 0.2, 0.2]), TARGETS, r"probs must sum to 1 .* got 1\.\d+ in row 1 of 6"),
        (PROBS[:0], TARGETS[:0], r"probs must be \(N, K\) with N >= 1 and K >= 2, got \(0, 3\)"),
        (PROBS[:, :1], TARGETS, r"probs must be \(N, K\) .* got \(6, 1\)"),
        (PROBS[0], TARGETS, r"probs must be \(N, K\) .* got \(3,\)"),
        (PROBS, TARGETS[:5], r"targets must be 6 integer class indices, got \(5,\)"),
        (PROBS, TARGETS.astype(float), "targets must be 6 integer class indices, .* float64"),
        (PROBS, np.array([0, 1, 2, 3, 1, 2]), r"targets must lie in 0\.\.2, got 3 in row 3 of 6"),
        (PROBS, np.array([0, 1, 2, 0, 1, -1]), r"targets must lie in 0\.\.2, got -1 in row 5 of 6"),
    ],
)
def test_bad_rows_are_named(metric: Callable[..., float], probs: Array, targets: Array, message: str) -> None:
    """NaN, negative, unnormalised, empty and foreign input is a ValueError that names the row."""
    with pytest.raises(ValueError, match=message):
        metric(probs, targets)


@pytest.mark.parametrize("metric", [*BINNED, metrics.calibration_error_l2])
@pytest.mark.parametrize("num_bins", [0, -1, 2.5])
def test_a_wrong_number_of_bins_is_named(metric: Callable[..., float], num_bins: Any) -> None:
    """`num_bins` is an integer of at least 1."""
    with pytest.raises(ValueError, match="num_bins must be an integer of at least 1"):
        metric(PROBS, TARGETS, num_bins=num_bins)


@pytest.mark.parametrize("metric", EVERY)
def test_one_row_is_enough(metric: Callable[..., float]) -> None:
    """Every metric of a single row is finite."""
    assert math.isfinite(metric([[0.6, 0.4]], [0]))
