"""Classes, slices, positive class, abstaining, calibration test: values against referees, rates by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from fedlas import metrics
from fedlas.metrics.bootstrap import ResamplingUnits
from fedlas.metrics.consistency_test import _redrawn
from fedlas.metrics.l2_calibration_error import L2CalibrationError
from fedlas.metrics.per_slice import slice_names
from fedlas.metrics.proportions import chance_of_so_few, chance_of_sum, effective_rows, wilson
from fedlas.metrics.selective import RiskCoverage
from fedlas.metrics.subgroups import chance_if_calibrated, chance_if_no_worse, share

Array = NDArray[Any]


def world(rows: int, classes: int, *, seed: int = 0, scale: float = 1.0) -> tuple[Array, Array]:
    """Probabilities softmax(scale·s) and labels drawn from softmax(s)."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, classes))

    def softmax(values: Array) -> Array:
        weights: Array = np.exp(values - values.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    labels = (rng.random((rows, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return softmax(scale * logits), labels


def rounded(probs: Array) -> Array:
    """The same with many equal confidences."""
    coarse: Array = np.round(probs, 1) + 1e-9
    return coarse / coarse.sum(axis=1, keepdims=True)


# --- abstaining ---------------------------------------------------------------------------------------------------


def augrc_by_definition(confidences: Array, wrong: Array) -> float:
    """P(another row is at least as sure as a random bar, and wrong): all pairs, ties half."""
    above = (confidences[:, None] > confidences) + 0.5 * (confidences[:, None] == confidences)
    return float((above * wrong[:, None]).sum() / len(wrong) ** 2)


@pytest.mark.parametrize("ties", [False, True])
def test_augrc_is_its_definition_and_its_closed_form(ties: bool) -> None:
    """All pairs by brute force, and (1 − AUROC)·a·(1 − a) + (1 − a)²/2 with scikit-learn's AUROC, agree with it."""
    probs, targets = world(300, 4, seed=1)
    probs = rounded(probs) if ties else probs
    right = probs.argmax(axis=1) == targets
    value, a = metrics.augrc(probs, targets), right.mean()
    assert value == pytest.approx(augrc_by_definition(probs.max(axis=1), ~right), rel=1e-9)
    auroc = roc_auc_score(right, probs.max(axis=1))
    assert value == pytest.approx((1 - auroc) * a * (1 - a) + (1 - a) ** 2 / 2, rel=1e-9)


def test_augrc_of_resamples_is_that_of_the_resampled_rows() -> None:
    """Weights and repeated rows give the same."""
    probs, targets = world(60, 3, seed=3)
    probs = rounded(probs)
    counts = next(iter(ResamplingUnits(None, 60).resamples(20, seed=0)))
    for row, value in zip(counts, RiskCoverage(probs, targets).both(counts)[:, 1], strict=True):
        held = np.repeat(np.arange(60), row)
        assert value == pytest.approx(metrics.augrc(probs[held], targets[held]), rel=1e-9)


def test_augrc_of_extremes() -> None:
    """Always right gives 0; always wrong gives 1/2, however sure."""
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]])
    assert metrics.augrc(probs, [0, 0, 0]) == 0
    assert metrics.augrc(probs, [1, 1, 1]) == pytest.approx(0.5)


@pytest.mark.parametrize("rows", [7, 150, 1234])
def test_the_risk_coverage_curve_is_what_answering_gives(rows: int) -> None:
    """Every point: answer where the confidence reaches the threshold, count, and the last point answers everything."""
    probs, targets = world(rows, 3, seed=2)
    probs = rounded(probs) if rows == 150 else probs
    curve = metrics.risk_coverage_curve(probs, targets)
    confidences, wrong = probs.max(axis=1), probs.argmax(axis=1) != targets
    assert 1 <= len(curve.coverage) <= 200
    assert curve.coverage[-1] == 1
    assert (np.diff(curve.coverage) > 0).all()
    for coverage, threshold, error in zip(curve.coverage, curve.thresholds, curve.error_rate, strict=True):
        kept = confidences >= threshold
        assert (kept.mean(), wrong[kept].mean()) == pytest.approx((coverage, error), abs=1e-12)
    assert ((curve.low <= curve.error_rate) & (curve.error_rate <= curve.high)).all()


def test_the_band_of_copies_is_no_narrower() -> None:
    """Every row four times in one group has the band of the rows alone, to a degree of freedom."""
    probs, targets = world(200, 3, seed=5)
    alone = metrics.risk_coverage_curve(probs, targets)
    four = metrics.risk_coverage_curve(
        np.repeat(probs, 4, axis=0), np.repeat(targets, 4), groups=np.repeat(np.arange(200), 4)
    )
    assert four.high[-1] - four.low[-1] == pytest.approx(alone.high[-1] - alone.low[-1], rel=0.01)


# --- shares and exact tests -----------------------------------------------------------------------------------------


def test_wilson_agrees_with_scipy() -> None:
    """For counts from none to all."""
    for hits, rows in ((0, 12), (5, 12), (12, 12), (333, 1000)):
        expected = stats.binomtest(hits, rows).proportion_ci(0.9, method="wilson")
        low, high = wilson(hits / rows, rows, 0.9)
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("rows", [1, 30, 399, 2000])
def test_the_chance_of_a_sum_is_the_binomial_where_all_are_equal(rows: int) -> None:
    """Twice the smaller tail, exact when small and near when large."""
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


def test_holm_by_hand() -> None:
    """Sorted, multiplied, never falling, at most 1; tests that were not made cost nothing."""
    adjusted = metrics.holm_adjusted([0.04, 0.001, np.nan, 0.03])
    assert adjusted[[0, 1, 3]] == pytest.approx([0.06, 0.003, 0.06])
    assert np.isnan(adjusted[2])
    with pytest.raises(ValueError, match="p_values must be"):
        metrics.holm_adjusted([1.5])


def test_copies_in_groups_are_worth_one_row() -> None:
    """Five copies of each row count as the rows alone; independent rows in groups count almost fully."""
    values = (np.random.default_rng(0).random(400) < 0.3).astype(float)
    assert effective_rows(np.repeat(values, 5), np.repeat(np.arange(400), 5)) == pytest.approx(400, rel=0.01)
    assert effective_rows(values, np.repeat(np.arange(200), 2)) > 300
    assert effective_rows(np.ones(100), np.repeat(np.arange(10), 10)) == 10


def test_nothing_is_claimed_of_nothing() -> None:
    """No rows have no share; too few rows, or too few groups, have no p-value."""
    assert share(np.zeros(0), None, 0.95) is None
    assert np.isnan(chance_if_calibrated(np.full(19, 0.5), np.ones(19), None))
    assert np.isnan(chance_if_calibrated(np.full(90, 0.5), np.ones(90), np.repeat(np.arange(9), 10)))
    assert np.isnan(chance_if_no_worse(np.ones(50), np.ones(50, dtype=bool), None))


# --- the calibration test -------------------------------------------------------------------------------------------


def test_the_redrawn_statistic_is_the_squared_error() -> None:
    """All draws at once give what `L2CalibrationError` gives one by one from the same draws; bins of one row too."""
    probs, _ = world(200, 3, seed=1)
    for confidences in (probs.max(axis=1), np.append(np.full(40, 0.5), 0.99)):
        hits = (np.random.default_rng(4).random((5, len(confidences))) < confidences).astype(float)
        expected = [L2CalibrationError(confidences, row, num_bins=10).value for row in hits]
        assert _redrawn(confidences, 10, 5, 4) == pytest.approx(np.array(expected), abs=1e-12)


def test_the_calibration_test_keeps_its_level_and_finds_overconfidence() -> None:
    """Calibrated: p ≤ 0.1 in about 10 % of draws (at most 19 of 100 by chance); three times too sure: always."""
    small = [metrics.calibration_test(*world(300, 3, seed=s), num_draws=99).p_value <= 0.1 for s in range(100)]
    assert 2 <= sum(small) <= 19
    found = [metrics.calibration_test(*world(300, 3, seed=s, scale=3), num_draws=99).p_value for s in range(20)]
    assert max(found) == 0.01


# --- classes --------------------------------------------------------------------------------------------------------


def test_the_class_table_agrees_with_scikit_learn() -> None:
    """Recall, precision and support of every class; Brier parts add up to the Brier score; gaps are differences."""
    probs, targets = world(600, 5, seed=3, scale=1.5)
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
    probs, targets = world(3000, 4, seed=4)
    liar = probs.argmax(axis=1) == 2
    probs[liar] = 0.5 * probs[liar] + 0.5 * np.eye(4)[2]
    first, *others = metrics.class_table(probs, targets)
    assert first.index == 2
    assert first.p_adjusted is not None
    assert first.p_adjusted < 0.001
    assert all(row.p_adjusted is None or row.p_adjusted > 0.05 for row in others)


def test_class_errors_are_unbiased_and_covered() -> None:
    """For a calibrated model the class errors average to 0 and their intervals hold it in at least 90 % of cases."""
    found = [e for s in range(25) for e in metrics.class_calibration_errors(*world(400, 4, seed=s))]
    values = np.array([e.value for e in found])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert np.mean([e.low <= 0 <= e.high for e in found]) >= 0.9


def test_a_thousand_classes_show_fifty() -> None:
    """The table stays short, and classes without rows or answers have no figures rather than wrong ones."""
    probs, targets = world(300, 1000, seed=1)
    table = metrics.class_table(probs, targets)
    assert len(table) == 50
    for row in table:
        assert (row.recall is None) == (row.num_rows == 0)
        assert (row.precision is None) == (row.num_predicted == 0)


# --- slices ---------------------------------------------------------------------------------------------------------


def test_the_slice_that_fails_is_named_and_chance_names_none() -> None:
    """Flipped labels in one of eight slices: shown as miscalibrated and as worse; without them nothing is shown."""
    probs, targets = world(2000, 3, seed=6)
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
    probs, targets = world(300, 3, seed=7)
    column = np.where(np.arange(300) % 3 == 0, "x", "y")
    for row in metrics.slice_table(probs, targets, {"c": column}, num_resamples=50).rows:
        inside = column == row.value
        for name in ("accuracy", "brier", "nll"):
            expected = getattr(metrics, name)(probs[inside], targets[inside])
            assert getattr(row, name).value == pytest.approx(expected)
        assert row.gap.value == pytest.approx(row.mean_confidence - row.accuracy.value)


def test_chance_rarely_names_a_slice() -> None:
    """Calibrated models with ten random slices: a false alarm in about 5 % of draws or fewer (at most 9 of 60)."""
    alarms = 0
    for seed in range(60):
        probs, targets = world(400, 3, seed=seed)
        slices = {"s": np.random.default_rng(seed).integers(0, 10, 400)}
        table = metrics.slice_table(probs, targets, slices, num_resamples=2)
        alarms += any(p is not None and p <= 0.05 for row in table.rows for p in (row.p_miscalibrated, row.p_worse))
    assert alarms <= 9


def test_columns_become_slices() -> None:
    """Missing values are a slice, few numbers stay, many numbers become quarters, names by the hundred are skipped."""
    assert slice_names(np.array([1.0, 2.0, np.nan])).tolist() == ["1", "2", "(missing)"]
    quarters, sizes = np.unique(slice_names(np.random.default_rng(0).normal(size=400)), return_counts=True)
    assert (len(quarters), sizes.tolist()) == (4, [100] * 4)
    probs, targets = world(300, 3)
    table = metrics.slice_table(probs, targets, {"id": [f"row {i}" for i in range(300)]}, num_resamples=2)
    assert (table.skipped, table.num_slices) == (("id",), 0)
    with pytest.raises(ValueError, match=r"slices\['a'\] must be \(300,\)"):
        metrics.slice_table(probs, targets, {"a": ["x"]})


# --- two classes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_agrees_with_scikit_learn(ties: bool) -> None:
    """With and without ties, for either class as the positive one."""
    probs, targets = world(400, 2, seed=2)
    probs = rounded(probs) if ties else probs
    for positive in (0, 1):
        expected = average_precision_score(targets == positive, probs[:, positive])
        assert metrics.average_precision(probs, targets, positive=positive) == pytest.approx(expected, rel=1e-12)
    assert metrics.average_precision(probs, np.zeros(400, int)) is None


def test_the_calibration_line_agrees_with_scikit_learn() -> None:
    """Slope and intercept are those of unpenalised logistic regression on the log-odds."""
    probs, targets = world(800, 2, seed=3, scale=2)
    line = metrics.calibration_line(probs, targets)
    odds = np.log(probs[:, 1] / probs[:, 0])
    referee = LogisticRegression(C=np.inf, tol=1e-10).fit(odds[:, None], targets)
    assert line is not None
    assert line.slope.value == pytest.approx(float(referee.coef_[0, 0]), rel=1e-5)
    assert line.intercept.value == pytest.approx(float(referee.intercept_[0]), abs=1e-5)
    assert line.slope.high < 1


def test_the_calibration_lines_interval_covers() -> None:
    """For a calibrated model the 95 % intervals hold slope 1 and intercept 0 in at least 88 of 100 draws."""
    lines = [metrics.calibration_line(*world(400, 2, seed=s)) for s in range(100)]
    assert sum(line is not None and line.slope.low <= 1 <= line.slope.high for line in lines) >= 88
    assert sum(line is not None and line.intercept.low <= 0 <= line.intercept.high for line in lines) >= 88


def test_no_line_is_invented() -> None:
    """One class only, one probability only, or perfect separation: none."""
    separated = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.0, 1.0]])
    assert metrics.calibration_line(separated, [0, 0, 1, 1]) is None
    assert metrics.calibration_line(separated, [1, 1, 1, 1]) is None
    assert metrics.calibration_line([[0.5, 0.5]] * 4, [0, 1, 0, 1]) is None


def test_missing_every_positive_is_seen() -> None:
    """With 0.3 % positives, never answering "positive" is 99.7 % accurate and has a recall of 0."""
    targets = np.zeros(2000, int)
    targets[:6] = 1
    found = metrics.positive_class(np.tile([0.997, 0.003], (2000, 1)), targets, num_resamples=50)
    assert (found.recall, found.precision, found.prevalence) == (0.0, None, 0.003)
    assert found.average_precision is not None
    assert found.average_precision.value == pytest.approx(0.003)
    assert found.ece == pytest.approx(0)
