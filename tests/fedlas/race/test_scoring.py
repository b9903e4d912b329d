"""Cross-fitting and the choice of a calibrator, on rows whose truth is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fedlas.calibrators import CALIBRATORS, TemperatureScaling
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.results import FEW_ROWS, cross_fitted_logits, make_folds, post_hoc_names, row_nll, score
from tests.helpers.drawn_labels import drawn, normal
from tests.helpers.drawn_rows import drawn_logits


@pytest.mark.parametrize("grouped", [False, True])
def test_each_row_is_in_one_fold_and_rare_classes_in_all(grouped: bool) -> None:
    """Five folds part the rows; a class with ten groups of rows is in each of them twice."""
    targets = np.repeat([0, 1, 2], [400, 90, 10])
    groups = np.arange(500) if not grouped else np.concatenate([np.arange(490) // 3, np.arange(490, 500)])
    folds = make_folds(targets, groups=groups if grouped else None, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(500))
    assert [Counter(targets[fold])[2] for fold in folds] == [2] * 5
    assert max(len(fold) for fold in folds) - min(len(fold) for fold in folds) <= (3 if grouped else 1)


def test_groups_are_never_torn() -> None:
    """All rows of a group are in the same fold, for groups of any size and labels of any kind."""
    rng = np.random.default_rng(0)
    groups = np.array([f"g{i}" for i in rng.zipf(1.5, size=1000) % 200])
    folds = make_folds(rng.integers(0, 4, 1000), groups=groups, seed=0)
    assert len(folds) == 5
    for name in np.unique(groups):
        assert sum(name in groups[fold] for fold in folds) == 1


def test_folds_depend_on_the_seed_and_nothing_else() -> None:
    """One seed always gives one set of folds, another seed others."""
    targets = np.arange(100) % 3
    one, same, other = (make_folds(targets, seed=s) for s in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_a_single_group_and_a_single_row_are_survived() -> None:
    """One group is dealt out by rows, and one row is its own judge; the choice then stays with the first."""
    targets = np.arange(20) % 2
    assert len(make_folds(targets, groups=np.zeros(20), seed=0)) == 5
    assert len(make_folds(targets[:1], seed=0)) == 1
    logits = normal(20, 2)
    selector = CalibratorSelector(targets, ("temperature", "affine"), False, np.zeros(20))
    for found in (selector.calibrate(logits), selector.of_rows(np.arange(1)).calibrate(logits[:1])):
        assert np.isfinite(found.held_out).all()
    with pytest.raises(ValueError, match="groups"):
        make_folds(targets, groups=np.zeros(3), seed=0)


def test_held_out_rows_are_calibrated_by_a_fit_on_the_others() -> None:
    """Each fold's logits are those of a temperature fitted without it."""
    logits = normal(100, 3)
    targets = drawn(logits / 2)
    folds = make_folds(targets, seed=0)
    held_out = cross_fitted_logits(TemperatureScaling, logits, targets, folds)
    for fold in folds:
        others = np.setdiff1d(np.arange(100), fold)
        fitted = TemperatureScaling().fit(logits[others], targets[others])
        np.testing.assert_array_equal(held_out[fold], fitted(logits[fold]))
    assert row_nll(held_out, targets).mean() == pytest.approx(score(held_out, targets)["nll"])


def test_what_is_offered_can_be_fitted() -> None:
    """Every offered name exists, begins with the temperature, and grows with the rows."""
    for num_classes in (2, 3, 20, 200, 1000):
        for num_rows in (10, 300, 3000, 100_000):
            names = post_hoc_names(num_classes, num_rows, "binary" if num_classes == 2 else "multiclass")
            assert names[0] == ("temperature" if num_rows >= FEW_ROWS else "shrunken_temperature")
            assert set(names) <= set(CALIBRATORS)
    assert post_hoc_names(2, 150) == ("temperature", "mixture", "affine", "beta", "quadratic", "spline")
    assert post_hoc_names(20, 150) == ("temperature", "mixture")
    richest = ("structured_vector", "structured_matrix", "one_vs_rest", "isotonic")
    assert post_hoc_names(10, 1000) == ("temperature", "mixture", *richest)
    assert post_hoc_names(1000, 100_000) == ("temperature",)
    with pytest.raises(ValueError, match="num_classes"):
        post_hoc_names(3, 1000, "binary")


@pytest.mark.parametrize("shifted", [False, True])
def test_on_digits_the_pool_beats_the_temperature(shifted: bool) -> None:
    """Logistic regression on noisy digits: the pool's NLL on new rows is lower, mean of 5 splits."""
    digits = load_digits()
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(digits.target))
        inputs = (digits.data + 6 * rng.normal(size=digits.data.shape)) / 16
        model = LogisticRegression(C=100, max_iter=1000, tol=1e-3).fit(inputs[rows[:500]], digits.target[rows[:500]])
        rest = rows[500:]
        if shifted:
            rest = rest[rng.random(len(rest)) < np.where(digits.target[rest] % 2, 1.0, 0.2)]
        logits, targets = model.decision_function(inputs[rest]), digits.target[rest].astype(np.int64)
        half = len(rest) // 2
        fitting = (logits[:half], targets[:half])
        selector = CalibratorSelector(fitting[1], post_hoc_names(10, half), False)
        chosen = selector.log_pool([selector.temperature(fitting[0]), selector.calibrate(fitting[0])]).calibrator
        simple = TemperatureScaling().fit(*fitting)
        plain, pooled = (row_nll(fitted(logits[half:]), targets[half:]) for fitted in (simple, chosen))
        gains.append((plain - pooled).mean())
    error = np.std(gains, ddof=1) / np.sqrt(5)
    assert np.mean(gains) > 2 * error
    assert min(gains) > -0.01


def test_a_row_that_weighs_two_is_two_rows() -> None:
    """The scores of candidates are those of the rows written out as often as they weigh, but for the binned error."""
    logits, targets = drawn_logits(120, 3)
    weights = 1 + np.arange(120) % 3
    weighted = score(logits, targets, weights.astype(float))
    repeated = score(np.repeat(logits, weights, axis=0), np.repeat(targets, weights))
    assert {name: weighted[name] for name in ("nll", "accuracy", "brier")} == {
        name: pytest.approx(repeated[name]) for name in ("nll", "accuracy", "brier")
    }
