"""The selector: the claims that calibration rows allow about calibrators and candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from fedlas.calibrators import CALIBRATORS, Calibrator, Pool, TemperatureScaling, VectorScaling, softmax
from fedlas.calibrators.feature_map import MAX_PRODUCT, FeatureScaling
from fedlas.calibrators.linear import Compressed
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.results import CandidateResult, CrossFitted, cross_fitted_logits, row_nll, score

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
RESULT = CandidateResult("x", "cross_entropy", {}, "all", "finished")
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


def weight_of(kind: type[Calibrator], found: Calibrator) -> float:
    """The weight of the members of a kind in a pool, or 1 where the calibrator is one itself."""
    if not isinstance(found, Pool):
        return float(isinstance(found, kind))
    return float(sum(w for one, w in zip(found.members, found.weights, strict=True) if isinstance(one, kind)))


def test_noise_features_cost_next_to_nothing() -> None:
    """A map of pure noise in the pool costs new rows under 0.002 of NLL on the mean of 20 sets."""
    costs = []
    for seed in range(20):
        logits, features, targets = rows(2400, informative=False, seed=seed)
        found = CalibratorSelector(targets[:400], PLAIN, True).calibrate(logits[:400], features[:400]).calibrator
        plain = TemperatureScaling().fit(logits[:400], targets[:400])
        answers = found(logits[400:], features[400:]), plain(logits[400:])
        costs.append(float(np.subtract(*(row_nll(answer, targets[400:]).mean() for answer in answers))))
    assert np.mean(costs) < 0.002


def test_features_that_know_more_rule_the_pool() -> None:
    """Where features hold what the logits lack they have most of the weight, and new rows score lower."""
    for seed in range(5):
        logits, features, targets = rows(1200, informative=True, seed=seed)
        found = CalibratorSelector(targets[:400], PLAIN, True).calibrate(logits[:400], features[:400])
        assert weight_of(FeatureScaling, found.calibrator) > 0.5
        plain = TemperatureScaling().fit(logits[:400], targets[:400])
        new = row_nll(found.calibrator(logits[400:], features[400:]), targets[400:])
        assert new.mean() < row_nll(plain(logits[400:]), targets[400:]).mean() - 0.03
        error = np.hypot(new.std() / np.sqrt(800), row_nll(found.held_out, targets[:400]).std() / np.sqrt(400))
        assert score(found.held_out, targets[:400])["nll"] == pytest.approx(new.mean(), abs=3.5 * error), "honest"


def test_a_pool_has_the_weights_of_highest_likelihood() -> None:
    """After its 300 steps the pool is within 0.001 of the best NLL (SciPy's minimiser) and under every member's."""
    logits, _, targets = rows(600, informative=False, seed=2)
    names = ("temperature", "mixture", "structured_vector", "isotonic")
    selector = CalibratorSelector(targets, names, False)
    pool = selector.calibrate(logits).calibrator
    held = [cross_fitted_logits(CALIBRATORS[name], logits.astype(float), targets, selector.folds) for name in names]
    true_probs = np.stack([np.exp(-row_nll(one, targets)) for one in held] + [np.full(600, 1 / 3)], axis=1)

    def nll(free: np.ndarray) -> float:
        return float(-np.log(true_probs @ (np.exp(free) / np.exp(free).sum())).mean())

    best = minimize(nll, np.zeros(5), method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-10}).fun
    kept = {member.name: w for member, w in zip(pool.members, pool.weights, strict=True)}  # type: ignore[attr-defined]
    ours = np.array([kept.get(name, 0.0) for name in (*names, "uniform")])
    assert ours.sum() == pytest.approx(1.0)
    assert best - 1e-6 <= -np.log(true_probs @ ours).mean() < best + 0.001
    assert -np.log(true_probs @ ours).mean() < -np.log(true_probs).mean(axis=0).min()


def test_a_calibrator_that_fails_in_a_fold_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One member that cannot be fitted costs its branch, not the pool."""
    logits, _, targets = rows(400, informative=False, seed=0)

    def fails(*_: Any, **__: Any) -> None:
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(VectorScaling, "fit_rows", fails)
    names = ("temperature", "mixture", "structured_vector")
    found = CalibratorSelector(targets, names, False).calibrate(logits).calibrator
    assert weight_of(VectorScaling, found) == 0.0
    assert np.isfinite(found(logits)).all()


def overconfident(scale: float, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two calibrated forecasts of a probit model, (N, 2) log-probabilities each, that know different things."""
    seen = rng.normal(size=(3, size))  # what both know, and what one of them knows
    targets = (scale * seen.sum(axis=0) + rng.normal(size=size) > 0).astype(np.int64)
    logs = []
    for own in (1, 2):
        p = norm.cdf(scale * (seen[0] + seen[own]) / np.sqrt(1 + scale**2))
        logs.append(np.log(np.stack([1 - p, p], axis=1).clip(1e-12)))
    return np.stack(logs), targets


def test_a_linear_pool_of_calibrated_forecasts_is_underconfident_and_a_log_linear_one_is_not() -> None:
    """The mean of two calibrated members (Ranjan, Gneiting 2010) is too cautious by points, the log pool is not."""
    logs, targets = overconfident(2.0, 100_000, np.random.default_rng(0))
    selector = CalibratorSelector(targets, PLAIN, False)

    def gap(logits: np.ndarray) -> float:
        return 100 * float(softmax(logits).max(axis=1).mean() - (logits.argmax(axis=1) == targets).mean())

    assert max(abs(gap(one)) for one in logs) < 0.3
    assert gap(np.log(np.exp(logs).mean(axis=0))) < -2
    weights, pooled = selector.log_mixed(list(logs))
    assert abs(gap(pooled)) < 0.3
    assert 1 < weights.sum() < 2


def test_a_log_linear_pool_has_the_weights_of_its_formula() -> None:
    """Penalised NLL by hand is as low as SciPy's Nelder-Mead gets it; two equal members share one weight."""
    logits, _, targets = rows(600, informative=False, seed=2)
    noise = np.random.default_rng(0).normal(size=(2, *logits.shape))
    members = [logits / 2.0 + noise[0], logits / 1.5 + noise[1]]
    logs = [np.maximum(np.log(softmax(one)), -30) for one in members]

    def penalised(weights: np.ndarray) -> float:
        mixed = weights[0] * logs[0] + weights[1] * logs[1]
        return float(row_nll(mixed, targets).mean() + np.log(weights.sum()) ** 2 / (2 * 0.25**2 * 600))

    selector = CalibratorSelector(targets, PLAIN, False)
    weights, _ = selector.log_mixed(members)
    best = minimize(lambda free: penalised(np.exp(free)), np.zeros(2), method="Nelder-Mead", options={"fatol": 1e-12})
    assert penalised(weights) == pytest.approx(best.fun, abs=1e-7)
    twins, _ = selector.log_mixed([members[0], members[0], members[1]])
    assert twins[0] == pytest.approx(twins[1], abs=1e-6)
    assert twins[:2].sum() == pytest.approx(weights[0], abs=2e-3)


def test_a_member_with_a_logit_that_is_no_number_has_no_weight() -> None:
    """One NaN costs the member, not the pool; where no member is left there is an error."""
    logits, _, targets = rows(400, informative=False, seed=0)
    broken = logits / 2.0
    broken[3, 1] = np.nan
    selector = CalibratorSelector(targets, PLAIN, False)
    weights, pooled = selector.log_mixed([broken, logits / 2.0])
    assert weights[0] == 0 < weights[1]
    assert np.isfinite(pooled).all()
    with pytest.raises(ValueError, match="finite in one member"):
        selector.log_mixed([broken])


def test_members_that_are_worse_than_none_have_next_to_no_weight() -> None:
    """Neither a member that says the opposite nor one that is sure of everything rules the others."""
    logits, _, targets = rows(1000, informative=False, seed=1)
    fair, opposite, sure = logits / 2.0, -logits / 2.0, 1e4 * logits
    weights, pooled = CalibratorSelector(targets, PLAIN, False).log_mixed([fair, opposite, sure])
    assert weights[1] < 0.01
    assert weights[2] < 0.05
    assert row_nll(pooled, targets).mean() < row_nll(fair, targets).mean() + 0.005


def test_saturated_scores_are_compressed_where_that_helps() -> None:
    """Log-odds of ±5,000 that are wrong once in ten are compressed, and say 90 %; true ones of ±20 keep theirs."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 1000)
    says = np.where(rng.random(1000) < 0.9, targets, 1 - targets) * 2 - 1
    sure = np.stack([np.zeros(1000), says * rng.choice([1.0, 50.0, 5000.0], 1000)], axis=1)
    selector = CalibratorSelector(targets, PLAIN, False)
    found = selector.calibrate(sure)
    assert isinstance(found.calibrator, Compressed)
    plain = TemperatureScaling().fit(sure, targets)
    assert row_nll(found.held_out, targets).mean() < row_nll(plain(sure), targets).mean() - 0.05
    right = np.stack([np.zeros(1000), (2 * targets - 1) * 20.0], axis=1)
    assert not isinstance(selector.calibrate(right).calibrator, Compressed)


def test_weights_count_as_copies() -> None:
    """Rows of weight 2 give the pool of the rows twice, in folds that hold both copies."""
    logits, _, targets = rows(300, informative=False, seed=4)
    weights = np.where(np.arange(300) % 3 == 0, 2.0, 1.0)
    again = np.concatenate([np.arange(300), np.flatnonzero(weights == 2)])
    groups = np.arange(300)
    weighted = CalibratorSelector(targets, ("temperature", "mixture"), False, groups, weights)
    copied = CalibratorSelector(targets[again], ("temperature", "mixture"), False, groups[again])
    copied.__dict__["folds"] = [np.flatnonzero(np.isin(again, fold)) for fold in weighted.folds]
    one, two = weighted.calibrate(logits).calibrator, copied.calibrate(logits[again]).calibrator
    assert softmax(one(logits)) == pytest.approx(softmax(two(logits)), abs=1e-4)


def test_a_judge_that_reads_no_features_chooses_none() -> None:
    """With `reads_features` False, without features, or under 200 rows the logits alone are calibrated."""
    logits, features, targets = rows(400, informative=True, seed=0)
    assert CalibratorSelector(targets, PLAIN, False).calibrate(logits, features).calibrator.name == "temperature"
    assert CalibratorSelector(targets, PLAIN, True).calibrate(logits).calibrator.name == "temperature"
    found = CalibratorSelector(targets[:199], PLAIN, True).calibrate(logits[:199], features[:199])
    assert found.calibrator.name == "temperature"


def test_a_map_that_would_take_minutes_is_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of more than `MAX_PRODUCT` multiplications a pass is not even begun; one less and it is."""
    rng = np.random.default_rng(0)
    wide = np.zeros((500, 4096), np.float32)
    logits, targets = rng.normal(size=(500, 100)).astype(np.float32), rng.integers(0, 100, 500)
    assert logits.size * wide.shape[1] > MAX_PRODUCT
    begun: list[tuple[int, ...]] = []

    def fit(logits: np.ndarray, features: np.ndarray, *_: Any, **__: Any) -> tuple[TemperatureScaling, np.ndarray]:
        begun.append(features.shape)
        return TemperatureScaling(), logits

    monkeypatch.setattr("fedlas.race.calibrator_selection.cross_fit_features", fit)
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


def test_copies_in_groups_cannot_vote_for_a_map() -> None:
    """Thirty noisy rows repeated ten times: without groups the map learns the copies by heart, with groups it loses."""
    logits, features, targets = (np.repeat(part, 10, axis=0) for part in rows(30, informative=False, seed=1))
    groups = np.repeat(np.arange(30), 10)
    apart, together = (CalibratorSelector(targets, PLAIN, True, g).calibrate(logits, features) for g in (None, groups))
    assert weight_of(FeatureScaling, apart.calibrator) > 0.9
    assert row_nll(apart.held_out, targets).mean() < 0.5 * row_nll(together.held_out, targets).mean()


def test_accuracy_that_is_lost_by_chance_drops_nothing() -> None:
    """Four answers of 200 lost in exchange for none are a drop, seven lost for four won are not, by a paired test."""
    targets = np.zeros(200, np.int64)
    base = np.arange(200) < 180
    selector = CalibratorSelector(targets, PLAIN, True, base_correct=base, max_accuracy_drop=0.005)

    def dropped(lost: int, won: int) -> str:
        right = base.copy()
        right[:lost], right[180 : 180 + won] = False, True
        held_out = np.where(right[:, None], [2.0, 0.0], [0.0, 2.0])
        return selector.scored(RESULT, CrossFitted(TemperatureScaling(), held_out)).reason

    assert "3.50 points" in dropped(7, 0)
    assert dropped(7, 4) == dropped(1, 0) == dropped(0, 5) == ""
