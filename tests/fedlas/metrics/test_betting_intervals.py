"""The intervals that the gate rests on: against exact ones, brute force and repeated draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from fedlas.calibrators import softmax
from fedlas.metrics import brier, nll
from fedlas.metrics.betting_intervals import BoundedMean, detectable, exponential_tail, paired_mean


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (1, 50), (3, 100), (40, 300), (0, 5000)])
def test_shares_meet_clopper_and_pearson(hits: int, trials: int) -> None:
    """For zeros and ones the bounds are the exact binomial ones, within 0.5 %."""
    found = BoundedMean.of(np.repeat([1.0, 0.0], [hits, trials - hits]), lower=0.0, upper=1.0).estimate(0.025)
    assert found.high == pytest.approx(beta.ppf(0.975, hits + 1, trials - hits), rel=0.005)
    assert found.low == pytest.approx(beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0, rel=0.005, abs=1e-9)


def test_the_saddlepoint_is_the_chance_of_the_exponentials() -> None:
    """Four hundred thousand draws of the weighted sum give the same probability, in the tail and near the middle."""
    rng = np.random.default_rng(0)
    weights = np.append(rng.normal(-0.02, 0.2, 60), 0.8)
    draws = rng.exponential(size=(400_000, 61))
    for shift in (0.06, 0.02, 0.0, -0.02, float(weights.mean())):
        share = float((draws @ (weights - shift) >= 0).mean())
        assert exponential_tail(weights - shift) == pytest.approx(share, rel=0.02)


def test_no_difference_shows_nothing() -> None:
    """Weights of nothing but 0 give a p-value of 1, one-sided weights the sure answers."""
    assert exponential_tail(np.zeros(5)) == 1.0
    assert exponential_tail(np.array([-1.0, -2.0])) == 0.0


@pytest.mark.parametrize("scale", [1e-49, 1e-85, 1e-170, 1e-300, 1e30])
def test_the_tail_has_no_scale(scale: float) -> None:
    """Differences so small that their squares vanish, as of a saturated naive Bayes, give the same probability."""
    weights = np.array([1.0, -3.0, 0.5, -0.25])
    assert exponential_tail(scale * weights) == pytest.approx(exponential_tail(weights), rel=1e-3)
    assert exponential_tail(np.array([1.0, 0.0])) == 1.0


def test_bound_and_p_value_agree() -> None:
    """The upper bound at a level is below 0 exactly where the p-value is below that level; flipping mirrors both."""
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(30):
        mean = BoundedMean.of(rng.normal(-0.03, 0.2, 150).clip(-1, 1), lower=-1.0, upper=1.0)
        shown = mean.p_value() < 0.05
        seen.add(shown)
        assert (mean.estimate(0.05).high < 0) == shown
        mirrored = mean.flipped().estimate(0.05)
        assert (mirrored.low, mirrored.high) == pytest.approx((-mean.estimate(0.05).high, -mean.estimate(0.05).low))
    assert seen == {True, False}


def test_the_order_of_rows_and_the_names_of_groups_do_not_matter() -> None:
    """Shuffled rows, renamed groups and groups of one row leave the p-value as it is."""
    rng = np.random.default_rng(2)
    rows, order = rng.normal(-0.05, 0.3, 90).clip(-1, 1), rng.permutation(90)
    groups = np.arange(90) // 3
    bounds = {"lower": -1.0, "upper": 1.0}
    alone, grouped = BoundedMean.of(rows, **bounds).p_value(), BoundedMean.of(rows, **bounds, groups=groups).p_value()
    assert BoundedMean.of(rows[order], **bounds).p_value() == pytest.approx(alone, rel=1e-9)
    assert BoundedMean.of(rows[order], **bounds, groups=[f"g{g}" for g in groups[order]]).p_value() == pytest.approx(
        grouped, rel=1e-9
    )
    assert BoundedMean.of(rows, **bounds, groups=np.arange(90)[::-1]).p_value() == pytest.approx(alone, rel=1e-9)
    assert grouped != pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize("score", ["brier", "nll"])
def test_bounds_are_what_the_worst_label_would_cost(score: str) -> None:
    """Every label of every row, tried one by one, gives the bounds (NLL: labels that a model gives at least 1/N)."""
    rng = np.random.default_rng(3)
    probs, base = (softmax(2 * rng.normal(size=(40, 4))) for _ in range(2))
    targets = rng.integers(0, 4, 40)
    metric = {"brier": brier, "nll": nll}[score]
    found = paired_mean(probs, base, targets, score=score)
    assert found.value == pytest.approx(metric(probs, targets) - metric(base, targets))
    for i in range(40):
        costs = [metric(probs[[i]], [k]) - metric(base[[i]], [k]) for k in range(4)]
        kept = [
            cost
            for k, cost in enumerate(costs)
            if score == "brier" or k == targets[i] or max(probs[i, k], base[i, k]) >= 1 / 40
        ]
        assert (found.least[i], found.most[i]) == pytest.approx((min(kept), max(kept)))


def test_false_claims_are_rare_where_the_normal_test_errs() -> None:
    """A timid and a bold temperature of equal Brier score, 30 rows: at most 2.5 % claims, as a binomial has it."""
    rng = np.random.default_rng(4)
    sharp, wrong, normal = 4.0, 0, 0
    logits = rng.normal(size=400_000) * sharp
    truth = 1 / (1 + np.exp(-logits))

    def excess(factor: float) -> float:
        return float((2 * (1 / (1 + np.exp(-factor * logits)) - truth) ** 2).mean())

    low, high = 1.0, 50.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < excess(0.4) else (low, middle)
    assert excess(low) == pytest.approx(excess(0.4), rel=0.01)
    for start in range(0, 400 * 30, 30):
        rows, targets = logits[start : start + 30], (rng.random(30) < truth[start : start + 30]).astype(int)
        timid, bold = (np.stack([1 / (1 + np.exp(f * rows)), 1 / (1 + np.exp(-f * rows))], 1) for f in (0.4, low))
        mean = paired_mean(bold, timid, targets, score="brier")
        wrong += mean.p_value() <= 0.025
        normal += mean.sums.mean() < -1.96 * mean.sums.std(ddof=1) / np.sqrt(30)
    assert wrong <= 18  # 99 % of draws of a binomial of 400 at 2.5 %
    assert normal > 18


def test_rows_needed_give_the_power_promised() -> None:
    """With as many rows as it says, the difference is shown in about 80 % of draws, rows or groups of four."""
    rng = np.random.default_rng(5)
    for size in (1, 4):
        groups = None if size == 1 else np.arange(8000) // size
        large = np.repeat(rng.normal(-0.03, 0.25, 8000 // size).clip(-1, 1), size)
        units = round(BoundedMean.of(large, lower=-1.0, upper=1.0, groups=groups).rows_needed(0.05) / size)
        shown = [
            BoundedMean.of(
                np.repeat(rng.normal(large.mean(), 0.25, units).clip(-1, 1), size),
                lower=-1.0,
                upper=1.0,
                groups=np.arange(units * size) // size,
            ).p_value()
            <= 0.05
            for _ in range(300)
        ]
        assert 0.7 < np.mean(shown) < 0.9
    assert BoundedMean.of([0.1, 0.2], lower=-1.0, upper=1.0).rows_needed(0.05) == np.inf


def test_wrong_input_is_refused() -> None:
    """NaN, values beyond the bounds, other shapes and unknown scores are ValueErrors that name the argument."""
    for values in ([], [np.nan], [[0.0]]):
        with pytest.raises(ValueError, match="differences"):
            BoundedMean.of(values, lower=-1.0, upper=1.0)
    with pytest.raises(ValueError, match="between lower and upper"):
        BoundedMean.of([0.0, 2.0], lower=-1.0, upper=1.0)
    with pytest.raises(ValueError, match="groups"):
        BoundedMean.of([0.0, 0.5], lower=-1.0, upper=1.0, groups=[1])
    with pytest.raises(ValueError, match="score"):
        paired_mean([[0.5, 0.5]], [[0.5, 0.5]], [0], score="ece")
    with pytest.raises(ValueError, match="baseline_probs"):
        paired_mean([[0.5, 0.5]], [[0.5, 0.3, 0.2]], [0], score="nll")


@pytest.mark.parametrize("groups", [None, np.arange(400) // 4], ids=["rows", "groups"])
def test_what_is_detectable_is_what_the_rows_needed_say(groups: np.ndarray | None) -> None:
    """With exactly the rows that a mean needs to be shown, the smallest detectable gain is that mean."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 400)
    worse = np.clip(0.6 * np.eye(2)[targets] + 0.2 + 0.1 * rng.standard_normal((400, 1)) * [1, -1], 0.01, 0.99)
    better = np.clip(0.7 * np.eye(2)[targets] + 0.15 + 0.1 * rng.standard_normal((400, 1)) * [1, -1], 0.01, 0.99)
    mean = paired_mean(better, worse, targets, score="brier", groups=groups)
    assert mean.value < 0
    assert detectable(mean, 0.02, num_rows=mean.rows_needed(0.02)) == pytest.approx(-mean.value, rel=1e-9)
