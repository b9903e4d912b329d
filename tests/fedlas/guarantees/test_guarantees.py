"""Guarantees and conformal quantiles hold in redraws, impossible ones are refused; typicality is a p-value."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, betabinom, binom
from sklearn.covariance import EmpiricalCovariance

from fedlas.guarantees import Guarantees, Unreachable
from fedlas.guarantees.guarantees import NUM_THRESHOLDS, upper_bound
from fedlas.guarantees.typicality import LEVELS, Quantiles, Typicality, TypicalityScore
from tests.helpers.drawn_rows import drawn_features

Array = NDArray[Any]
NAMES = ("a", "b", "c", "d")


def rows_of(num_rows: int, *, seed: int, overconfidence: float = 1.6) -> tuple[Array, Array]:
    """Rows of a four-class problem from a model that is too sure of itself; 31 % of its answers are wrong."""
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=(num_rows, 4))
    truth, said = softmax(scores), softmax(overconfidence * scores)
    return said, (truth.cumsum(1) > rng.random((num_rows, 1))).argmax(1)


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(1, keepdims=True))
    result: Array = weights / weights.sum(1, keepdims=True)
    return result


ERROR_LEVELS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
REDRAWS = 200
#: More than 21 failures of 200 have probability below 0.1 % where the true rate is 5 %.
MAX_FAILURES = 21


class Population:
    """Many rows, in which the true risk of a threshold can be looked up."""

    def __init__(self, probs: Array, targets: Array) -> None:
        self.probs, self.targets = probs, targets
        order = np.argsort(probs.max(1))
        self.confidences = probs.max(1)[order]
        self.errors = np.cumsum((probs.argmax(1) != targets)[order][::-1])[::-1]

    def risk(self, threshold: float) -> float:
        first = int(np.searchsorted(self.confidences, threshold))
        return float(self.errors[first]) / (len(self.errors) - first) if first < len(self.errors) else 0.0


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(*rows_of(200_000, seed=7))


def test_thresholds_by_brute_force() -> None:
    """Each bound is the binomial one at δ/M of the rows at or above its threshold; the lowest that passes is taken."""
    probs, targets = rows_of(500, seed=1)
    found = Guarantees.fit(probs, targets, class_names=NAMES)
    confidences, wrong = probs.max(1).astype(np.float32), probs.argmax(1) != targets
    assert found.thresholds[0] == 0
    assert len(found.thresholds) == NUM_THRESHOLDS
    for threshold, bound, by_class in zip(found.thresholds, found.bounds, found.class_bounds.T, strict=True):
        kept = confidences >= threshold
        errors, trials = int(wrong[kept].sum()), int(kept.sum())
        expected = beta.ppf(1 - 0.05 / NUM_THRESHOLDS, errors + 1, trials - errors)
        assert 0 <= bound - expected < 1.1e-6
        for k in range(4):
            errors, trials = int(wrong[kept & (targets == k)].sum()), int((kept & (targets == k)).sum())
            expected = beta.ppf(1 - 0.05 / NUM_THRESHOLDS, errors + 1, trials - errors) if errors < trials else 1
            assert 0 <= by_class[k] - expected < 1.1e-6
    for level in (0.15, 0.3, 0.5):
        lowest = min(t for t, b in zip(found.thresholds, found.bounds, strict=True) if b <= level)
        assert found.threshold_for(level) == lowest
        worst = found.class_bounds.max(0)
        if (worst <= level).any():
            lowest = min(t for t, b in zip(found.thresholds, worst, strict=True) if b <= level)
            assert found.threshold_for({"class": level}) == lowest


@pytest.mark.parametrize("num_rows", [300, 1000])
def test_max_error_holds_at_every_level(population: Population, num_rows: int) -> None:
    """In 200 redraws the true risk exceeds its level, at any level, no more often than 5 % allows; and it is usable."""
    rng = np.random.default_rng(num_rows)
    failures, promised = 0, 0
    for _ in range(REDRAWS):
        at = rng.integers(len(population.targets), size=num_rows)
        found = Guarantees.fit(population.probs[at], population.targets[at], class_names=NAMES)
        kept = [level for level in ERROR_LEVELS if (found.bounds <= level).any()]
        promised += len(kept)
        failures += any(population.risk(found.threshold_for(level)) > level for level in kept)
    assert failures <= MAX_FAILURES
    assert promised >= 2 * REDRAWS


def test_coverage_follows_its_law(population: Population) -> None:
    """The coverage of a redraw follows the beta distribution of its rank, overall and by class."""
    rng = np.random.default_rng(5)
    scores = 1 - population.probs[np.arange(len(population.targets)), population.targets]
    ordered, of_class = np.sort(scores), np.sort(scores[population.targets == 2])
    realised, by_class = [], []
    for _ in range(REDRAWS):
        at = rng.integers(len(scores), size=400)
        found = Guarantees.fit(population.probs[at], population.targets[at], class_names=NAMES)
        realised.append(np.searchsorted(ordered, found.check_coverage(0.9)[0], side="right") / len(ordered))
        by_class.append(np.searchsorted(of_class, found.check_coverage({"c": 0.9})[2], side="right") / len(of_class))
    rank = math.ceil(401 * 0.9)
    law = beta(rank, 401 - rank)
    assert abs(np.mean(realised) - law.mean()) < 4 * law.std() / math.sqrt(REDRAWS)
    assert np.std(realised) == pytest.approx(law.std(), rel=0.25)
    assert 0.895 < np.mean(by_class) < 0.92, "a class has about 100 rows, of which the 91st or 92nd decides"


def test_coverage_counts_on_fresh_rows(population: Population) -> None:
    """The covered rows among 1,000 new ones lie in the beta-binomial band of the promise."""
    probs, targets = rows_of(1000, seed=3)
    found = Guarantees.fit(probs, targets, class_names=NAMES)
    new = slice(0, 1000)
    covered = int(found.prediction_sets(population.probs[new], 0.95)[np.arange(1000), population.targets[new]].sum())
    rank = math.ceil(1001 * 0.95)
    low, high = betabinom.ppf([0.0005, 0.9995], 1000, rank, 1001 - rank)
    assert low <= covered <= high


def test_sets_by_hand() -> None:
    """Nine rows, the true class's probability 0.1 … 0.9: at 50 % the fifth score decides, at 90 % the ninth."""
    true = np.arange(1, 10) / 10
    found = Guarantees.fit(np.stack([true, 1 - true], 1), np.zeros(9, int), class_names=["x", "y"])
    new = np.array([[0.5, 0.5], [0.7, 0.3], [0.95, 0.05]])
    assert found.prediction_sets(new, 0.5).tolist() == [[True, True], [True, False], [True, False]]
    assert found.prediction_sets(new, 0.9).tolist() == [[True, True], [True, True], [True, False]]
    only_x = found.prediction_sets(np.array([[0.3, 0.7], [0.6, 0.4]]), {"x": 0.5})
    assert only_x.tolist() == [[False, True], [True, False]], "y is in only where it is the most probable"
    with pytest.raises(Unreachable, match=r"largest that can is 0\.9"):
        found.prediction_sets(new, 0.91)
    with pytest.raises(Unreachable, match="class 'y'") as caught:
        found.prediction_sets(new, {"class": 0.5})
    assert caught.value.reachable == 0


def test_unreachable_names_the_value() -> None:
    """The refusal holds the smallest share, which is then granted; by class it names the worst class and its rows."""
    probs, targets = rows_of(400, seed=2)
    probs[:, 3], targets = 1e-9, np.where(targets == 3, 0, targets)
    targets[:5] = 3
    probs /= probs.sum(1, keepdims=True)
    found = Guarantees.fit(probs, targets, class_names=NAMES)
    with pytest.raises(Unreachable) as caught:
        found.threshold_for(0.001)
    shown = float(str(caught.value).split()[-1])
    assert shown == caught.value.reachable == found.bounds.min()
    assert found.threshold_for(shown) in found.thresholds
    with pytest.raises(Unreachable, match=r"class 'd' \(5 guarantee rows\)"):
        found.threshold_for({"class": 0.2})
    assert found.threshold_for({"a": 0.6, "b": 0.6}) < 1, "classes that are not named do not count"


def test_a_class_called_class() -> None:
    """Where a class is really called "class" the word means that class alone; else every class not named itself."""
    probs, targets = rows_of(1000, seed=4)
    ordinary = Guarantees.fit(probs, targets, class_names=NAMES)
    special = Guarantees.fit(probs, targets, class_names=["a", "b", "c", "class"])
    assert special.threshold_for({"class": 0.3}) == ordinary.threshold_for({"d": 0.3})
    assert np.isnan(special.check_coverage({"class": 0.9})).tolist() == [True, True, True, False]
    both = ordinary.check_coverage({"class": 0.8, "b": 0.95})
    np.testing.assert_array_equal(both[[0, 2, 3]], ordinary.check_coverage({"class": 0.8})[[0, 2, 3]])
    assert both[1] == ordinary.check_coverage({"b": 0.95})[1]


def test_whole_groups_are_the_units() -> None:
    """Rows repeated ten times promise what the rows alone promise; taken as independent they would promise more."""
    probs, targets = rows_of(300, seed=6)
    alone = Guarantees.fit(probs, targets, class_names=NAMES)
    ten = [np.repeat(part, 10, axis=0) for part in (probs, targets)]
    grouped = Guarantees.fit(*ten, class_names=NAMES, groups=np.repeat(np.arange(300), 10))
    assert (grouped.num_groups, grouped.num_rows) == (300, 3000)
    assert grouped.bounds[0] == pytest.approx(alone.bounds[0], abs=2e-3)
    assert grouped.bounds[0] >= alone.bounds[0] - 1e-6
    assert Guarantees.fit(*ten, class_names=NAMES).bounds[0] < alone.bounds[0] - 0.01
    assert grouped.check_coverage(0.9)[0] == pytest.approx(alone.check_coverage(0.9)[0], abs=1e-9)
    lonely = Guarantees.fit(probs, targets, class_names=NAMES, groups=np.zeros(300))
    assert lonely.bounds.min() > 0.99, "one group is one observation"
    with pytest.raises(Unreachable):
        lonely.check_coverage(0.9)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_groups_of_unequal_size(shared: float) -> None:
    """Groups that share their fate by any degree, large groups the harder ones: promises hold over 200 redraws."""

    def draw(rng: np.random.Generator, num_groups: int) -> tuple[Array, Array, Array]:
        sizes = rng.geometric(0.25, size=num_groups)
        groups = np.repeat(np.arange(num_groups), sizes)
        fate = np.clip(1 - 0.8**sizes + 0.3 * (rng.random(num_groups) - 0.5), 0, 0.999)
        difficulty = shared * fate[groups] + (1 - shared) * rng.random(len(groups))
        confidence = np.clip(1 - 0.3 * rng.random(len(groups)) - 0.13 * difficulty, 0.5, 1)
        wrong = difficulty > 0.9 - 0.3 * (confidence < 0.8)
        return np.stack([confidence, 1 - confidence], 1), wrong.astype(int), groups

    rng = np.random.default_rng(int(10 * shared))
    everyone = Population(*draw(rng, 50_000)[:2])
    failures = promised = 0
    for _ in range(REDRAWS):
        probs, targets, groups = draw(rng, 100)
        found = Guarantees.fit(probs, targets, class_names=["right", "wrong"], groups=groups)
        kept = [level for level in ERROR_LEVELS if (found.bounds <= level).any()]
        promised += len(kept)
        failures += any(everyone.risk(found.threshold_for(level)) > level for level in kept)
    assert failures <= MAX_FAILURES
    assert promised > REDRAWS / 2


def test_ties_and_certainty() -> None:
    """Equal confidences are answered together or not at all, whatever the last digit of another runtime."""
    confidence = np.repeat([0.9, 0.6], [300, 300])
    probs = np.stack([confidence, 1 - confidence], 1)
    targets = np.zeros(600, int)
    targets[300:] = np.arange(300) % 2
    assert 0.6 + 5e-7 < Guarantees.fit(probs, targets, class_names=["x", "y"]).threshold_for(0.05) < 0.9 - 5e-7
    sure = np.stack([np.full(400, 1 - 1e-12), np.full(400, 1e-12)], 1)
    assert Guarantees.fit(sure, np.zeros(400, int), class_names=["x", "y"]).threshold_for(0.05) == 0


def test_round_trip() -> None:
    """JSON keeps every threshold, bound and quantile."""
    probs, targets = rows_of(700, seed=8)
    found = Guarantees.fit(probs, targets, class_names=NAMES, groups=np.arange(700) // 2)
    again = Guarantees.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again.as_dict() == found.as_dict()
    assert again.threshold_for({"class": 0.6}) == found.threshold_for({"class": 0.6})
    np.testing.assert_array_equal(again.check_coverage({"class": 0.9}), found.check_coverage({"class": 0.9}))
    new = rows_of(100, seed=9)[0]
    np.testing.assert_array_equal(again.prediction_sets(new, 0.85), found.prediction_sets(new, 0.85))


def test_a_thousand_classes() -> None:
    """A thousand classes with two rows each promise something overall and refuse by class."""
    rng = np.random.default_rng(0)
    targets = np.arange(2000) % 1000
    scores = rng.normal(size=(2000, 1000))
    scores[np.arange(2000), targets] += 8
    found = Guarantees.fit(softmax(scores), targets, class_names=[f"k{i}" for i in range(1000)])
    assert found.threshold_for(0.1) < 1
    assert found.prediction_sets(softmax(scores[:5]), 0.9).shape == (5, 1000)
    with pytest.raises(Unreachable, match=r"\(2 guarantee rows\)"):
        found.threshold_for({"class": 0.1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": ["a"]}, "1 names"),
        ({"delta": 0.0}, "0.0"),
        ({"groups": [1, 2]}, "groups"),
        ({"targets": np.full(50, 4)}, "0..3"),
        ({"probs": np.full((50, 4), np.nan)}, "finite"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], words: str) -> None:
    """A meaningless argument is a ValueError that says what came."""
    probs, targets = rows_of(50, seed=0)
    given: dict[str, Any] = {"probs": probs, "targets": targets, "class_names": NAMES, **change}
    with pytest.raises(ValueError, match=words):
        Guarantees.fit(given.pop("probs"), given.pop("targets"), **given)


@pytest.mark.parametrize("asked", [-0.1, 1.1, True, {}, {"z": 0.1}, {"a": 2.0}, {"class": float("nan")}])
def test_wrong_requests(asked: Any) -> None:
    """Shares outside 0..1, unknown classes and empty mappings are refused alike by both promises."""
    found = Guarantees.fit(*rows_of(50, seed=0), class_names=NAMES)
    for ask in (found.threshold_for, found.check_coverage):
        with pytest.raises(ValueError, match=r"max_error|coverage") as caught:
            ask(asked)
        assert not isinstance(caught.value, Unreachable)


def test_bound_is_clopper_and_pearsons() -> None:
    """The bound equals scipy's beta quantile to 1e-9 and is never below it, for few and for many rows."""
    rng = np.random.default_rng(0)
    trials = (10 ** rng.uniform(0, 5.3, 600)).astype(int)
    errors = (trials * rng.random(600) ** 3).astype(int)
    for level in (0.5, 0.05, 0.0025, 1e-6):
        expected = np.where(errors < trials, beta.ppf(1 - level, errors + 1, trials - errors), 1)
        excess = upper_bound(errors, trials, level) - expected
        assert excess.min() > -1e-12
        assert excess.max() < 1e-9
    assert upper_bound([0, 3], [0, 3], 0.05).tolist() == [1, 1]


def test_so_few_errors_have_the_level_at_the_bound() -> None:
    """The binomial distribution at the bound gives so few errors exactly the probability asked for."""
    rng = np.random.default_rng(1)
    trials = rng.integers(1, 5000, 300)
    errors = (trials * rng.random(300) ** 2).astype(int)
    found = binom.cdf(errors, trials, upper_bound(errors, trials, 0.0025))
    np.testing.assert_allclose(found[errors < trials], 0.0025, rtol=1e-6)


@pytest.mark.parametrize(("errors", "trials", "level"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0.0), (1, 5, 1.0)])
def test_bound_refuses(errors: int, trials: int, level: float) -> None:
    """Counts and levels that mean nothing are errors."""
    with pytest.raises(ValueError, match=r"successes|level"):
        upper_bound(errors, trials, level)


@pytest.mark.parametrize("dim", [3, 64])
@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
def test_new_rows_are_evenly_typical(dim: int, score: TypicalityScore) -> None:
    """A share p, or a little less, of new rows of the same kind has a typicality of at most p."""
    found = Typicality.fit(*drawn_features(1500, dim), score=score)(drawn_features(20_000, dim, seed=1)[0])
    for share in (0.02, 0.05, 0.1, 0.3, 0.5, 0.8):
        assert (found <= share).mean() == pytest.approx(share, abs=0.045)
    assert 1 / 1501 <= found.min() <= found.max() <= 1


def test_the_fitted_rows_flatter_themselves() -> None:
    """With fewer rows than features new rows would look untypical if distances were not cross-fitted."""
    fitted = Typicality.fit(*drawn_features(200, 500))
    own, new = (drawn_features(200, 500, seed=seed)[0] for seed in (0, 1))
    assert np.median(fitted.distance(new)) > 1.5 * np.median(fitted.distance(own))
    assert (fitted(new) <= 0.05).mean() < 0.1


@pytest.mark.parametrize(("rows", "dim"), [(1000, 10), (1000, 64), (300, 400)])
def test_far_rows_are_untypical(rows: int, dim: int) -> None:
    """Rows that were moved have a typicality at the lower end."""
    fitted = Typicality.fit(*drawn_features(rows, dim))
    assert np.median(fitted(drawn_features(500, dim, seed=2, shift=4.0)[0])) <= 2 / (rows + 1)


def test_mahalanobis_is_scikit_learns() -> None:
    """With all directions kept the distance is scikit-learn's for the shrunk covariance and the nearest mean."""
    rows, targets = drawn_features(800, 6)
    fitted = Typicality.fit(rows, targets)
    means = np.stack([rows[targets == k].mean(0) for k in range(5)])
    within = EmpiricalCovariance(assume_centered=True).fit(rows - means[targets])
    within.covariance_ = 0.95 * within.covariance_ + 0.05 * np.trace(within.covariance_) / 6 * np.eye(6)
    within.precision_ = np.linalg.inv(within.covariance_)
    new = drawn_features(50, 6, seed=3)[0]
    expected = np.min([within.mahalanobis(new - mean) for mean in means], axis=0)
    np.testing.assert_allclose(fitted.distance(new), expected, rtol=1e-9)


def test_the_norm_is_two_sided() -> None:
    """Rows with a far larger and a far smaller norm are both strange."""
    rows = np.random.default_rng(0).normal(size=(500, 20)) + 5
    fitted = Typicality.fit(rows, score="norm")
    assert fitted.score == "norm"
    assert (fitted(np.stack([10 * rows[0], 0.1 * rows[0]])) <= 1 / 501).all()
    assert fitted(rows[np.argsort(rows.sum(1))[250]][None])[0] > 0.95


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (np.ones(5), {}, r"\(N, D\)"),
        (np.ones((1, 5)), {}, "N >= 2"),
        (np.array([[1.0], [np.nan]]), {}, "row 1"),
        (np.ones((3, 2)), {"targets": [0, 1]}, "targets"),
        (np.ones((3, 2)), {"score": "energy"}, "energy"),
    ],
)
def test_wrong_features_and_levels(given: Array, options: dict[str, Any], words: str) -> None:
    """A meaningless argument is a ValueError that says what is needed."""
    with pytest.raises(ValueError, match=words):
        Typicality.fit(given, **options)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        Typicality.fit(np.ones((3, 4)))(np.ones((2, 5)))


def test_every_kept_level_is_exact() -> None:
    """At the levels of the table the quantile is the ⌈(n+1)c⌉-th smallest score; between them the next higher one."""
    scores = np.random.default_rng(0).random(2500)
    table = Quantiles.fit(scores, 1, LEVELS)
    assert len(table.ranks) <= 200
    ordered = np.sort(scores)
    for level in LEVELS:
        rank = math.ceil(2501 * float(level) - 1e-9)
        if rank <= 2500:
            assert 0 < table.at(float(level)) - ordered[rank - 1] < 2.1e-6
    for level in np.random.default_rng(1).random(200) * 2500 / 2501:
        score = table.at(float(level))
        assert score is not None
        assert score > ordered[math.ceil(2501 * level) - 1]
