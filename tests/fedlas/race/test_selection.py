"""The selector: what may be said from calibration rows about calibrators and candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.calibrators.feature_map import MAX_PRODUCT, FeatureScaling
from fedlas.race.scoring import cross_fitted_logits, row_nll, score
from fedlas.race.selection import CalibratorSelector

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
PLAIN = ("temperature",)


def rows(number: int, *, informative: bool, seed: int, width: int = 20) -> Rows:
    """Logits twice too large, features (pure noise, or what the logits lack) and targets of three classes."""
    rng = np.random.default_rng(seed)
    features, truth = rng.normal(size=(number, width)), rng.normal(size=(number, 3))
    logits = (2 * truth).astype(np.float32)
    if informative:
        truth = truth + features @ rng.normal(scale=0.3, size=(width, 3))
    targets = (softmax(truth).cumsum(axis=1) > rng.random((number, 1))).argmax(axis=1)
    return logits, features.astype(np.float32), targets


def test_noise_features_win_no_more_often_than_two_standard_errors_allow() -> None:
    """Pure noise is chosen in at most 3 of 30 sets, and what it costs new rows is under 0.002 of NLL on the mean.

    A gain of nothing exceeds two standard errors in 2.3 % of draws; 3 is the upper 2.5 % point of that binomial.
    """
    costs = []
    for seed in range(30):
        logits, features, targets = rows(2400, informative=False, seed=seed)
        found = CalibratorSelector(targets[:400], PLAIN, True).calibrate(logits[:400], features[:400]).calibrator
        if isinstance(found, FeatureScaling):
            plain = TemperatureScaling().fit(logits[:400], targets[:400])
            answers = found(logits[400:], features[400:]), plain(logits[400:])
            costs.append(float(np.subtract(*(row_nll(answer, targets[400:]).mean() for answer in answers))))
    assert len(costs) <= 3
    assert sum(costs) / 30 < 0.002


def test_features_that_know_more_are_chosen() -> None:
    """Where features hold what the logits lack every one of ten sets chooses them, and scores lower on new rows."""
    for seed in range(10):
        logits, features, targets = rows(1200, informative=True, seed=seed)
        selector = CalibratorSelector(targets[:400], PLAIN, True)
        found = selector.calibrate(logits[:400], features[:400])
        assert isinstance(found.calibrator, FeatureScaling)
        plain = TemperatureScaling().fit(logits[:400], targets[:400])
        new = row_nll(found.calibrator(logits[400:], features[400:]), targets[400:])
        assert new.mean() < row_nll(plain(logits[400:]), targets[400:]).mean() - 0.03
        error = np.hypot(new.std() / np.sqrt(800), row_nll(found.held_out, targets[:400]).std() / np.sqrt(400))
        assert selector.score(found)["nll"] == pytest.approx(new.mean(), abs=3.5 * error), "cross-fitting is honest"


def test_a_judge_that_reads_no_features_chooses_none() -> None:
    """With `reads_features` False, without features, or under 200 rows the logits alone are calibrated."""
    logits, features, targets = rows(400, informative=True, seed=0)
    assert CalibratorSelector(targets, PLAIN, False).calibrate(logits, features).calibrator.name == "temperature"
    assert CalibratorSelector(targets, PLAIN, True).calibrate(logits).calibrator.name == "temperature"
    few = slice(0, 199)
    assert (
        CalibratorSelector(targets[few], PLAIN, True).calibrate(logits[few], features[few]).calibrator.name
        == "temperature"
    )


def test_a_map_that_would_take_minutes_is_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than `MAX_PRODUCT` multiplications a pass: the map is not even begun; one less and it is."""
    rng = np.random.default_rng(0)
    wide = np.zeros((500, 4096), np.float32)
    logits, targets = rng.normal(size=(500, 100)).astype(np.float32), rng.integers(0, 100, 500)
    assert logits.size * wide.shape[1] > MAX_PRODUCT
    begun: list[tuple[int, ...]] = []

    def fit(logits: np.ndarray, features: np.ndarray, *_: Any, **__: Any) -> tuple[TemperatureScaling, np.ndarray]:
        begun.append(features.shape)
        return TemperatureScaling(), logits

    monkeypatch.setattr("fedlas.race.selection.cross_fit_features", fit)
    selector = CalibratorSelector(targets, PLAIN, True)
    assert selector.calibrate(logits, wide).calibrator.name == "temperature"
    assert begun == []
    selector.calibrate(logits, wide[:, :4000])
    assert begun == [(500, 4000)]


def test_features_that_are_not_finite_are_left_out() -> None:
    """One infinite feature forbids the map, not the calibration."""
    logits, features, targets = rows(400, informative=True, seed=0)
    features[3, 2] = np.inf
    assert CalibratorSelector(targets, PLAIN, True).calibrate(logits, features).calibrator.name == "temperature"


def test_groups_are_left_out_whole() -> None:
    """Every group lies in exactly one fold, every row is in one."""
    _, _, targets = rows(400, informative=False, seed=0)
    groups = np.random.default_rng(0).integers(0, 40, 400)
    folds = CalibratorSelector(targets, PLAIN, True, groups).folds
    assert sorted(np.concatenate(folds).tolist()) == list(range(400))
    homes = [{int(group) for group in groups[fold]} for fold in folds]
    assert len(folds) == 5
    assert sum(map(len, homes)) == len(set.union(*homes)) == 40


def test_copies_in_groups_cannot_vote_for_a_map() -> None:
    """Thirty noisy rows repeated ten times: without groups the map learns the copies by heart, with groups it loses."""
    logits, features, targets = (np.repeat(part, 10, axis=0) for part in rows(30, informative=False, seed=1))
    groups = np.repeat(np.arange(30), 10)
    assert CalibratorSelector(targets, PLAIN, True).calibrate(logits, features).calibrator.name == "features"
    assert CalibratorSelector(targets, PLAIN, True, groups).calibrate(logits, features).calibrator.name == "temperature"


def test_groups_count_as_one_in_the_error() -> None:
    """A gain of 1.5 standard errors is one; the same rows in copies of nine are not nine times as many."""
    rng = np.random.default_rng(0)
    gain = rng.normal(size=100)
    gain += 1.5 * gain.std() / 10 - gain.mean()
    targets = np.zeros(900, np.int64)

    def logits(nll: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(900), np.log(np.expm1(np.repeat(nll, 9)))], axis=1)

    better, rival = logits(np.full(100, 5.0)), logits(5.0 + gain)
    groups = np.repeat(np.arange(100), 9)
    grouped, apart = CalibratorSelector(targets, PLAIN, True, groups), CalibratorSelector(targets, PLAIN, True)
    assert grouped.beats(better, rival)
    assert not grouped.beats(better, rival, standard_errors=1.6)
    assert apart.beats(better, rival, standard_errors=4.4)
    assert not apart.beats(better, better), "no candidate beats itself"
    one = CalibratorSelector(targets, PLAIN, True, np.zeros(900))
    assert one.beats(better, rival, standard_errors=4.4), "a single group keeps nothing apart"


def test_the_accuracy_floor() -> None:
    """A drop of exactly the limit is allowed, one row more is not, and the reason names the points."""
    targets = np.zeros(200, np.int64)
    selector = CalibratorSelector(targets, PLAIN, True, base_accuracy=0.9, max_accuracy_drop=0.005)
    assert selector.too_inaccurate(179 / 200) == ""
    assert "1.00 points" in selector.too_inaccurate(178 / 200)


def test_a_map_that_costs_accuracy_is_not_chosen() -> None:
    """Where features help but the demanded accuracy is out of reach the temperature stays."""
    logits, features, targets = rows(400, informative=True, seed=0)
    demanding = CalibratorSelector(targets, PLAIN, True, base_accuracy=1.0, max_accuracy_drop=0.0)
    assert demanding.calibrate(logits, features).calibrator.name == "temperature"


def test_scores_are_cross_fitted() -> None:
    """The scores of a temperature are those of rows that were not fitted on."""
    logits, _, targets = rows(400, informative=False, seed=0)
    selector = CalibratorSelector(targets, PLAIN, True)
    held_out = cross_fitted_logits(TemperatureScaling, logits.astype(np.float64), targets, selector.folds)
    assert selector.score(selector.calibrate(logits)) == score(held_out, targets)
