"""Recall at equal alarms, at the most probable class, and AUROC by class: their values, when they stop, and chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from fedlas.gate.findings import chance_of_losing, unit_errors
from fedlas.gate.ranking import (
    Roc,
    alarm_shares,
    auroc_drop,
    rare_classes_recall_drop,
    recall_drop_at_equal_alarms,
    worst_class_recall_drop,
)
from fedlas.metrics.statistics import ResamplingUnits
from tests.helpers.drawn_rows import answers, changed


def two(positive: np.ndarray) -> np.ndarray:
    """Probabilities (N, 2) whose second column is given."""
    return np.stack([1 - positive, positive], axis=1)


def test_fewer_alarms_are_no_loss_where_the_order_stays() -> None:
    """A monotone map that ends every alarm for the rare class finds as many of its rows at as many alarms."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], [940, 60])
    positive = rng.beta(2, 3, size=1000) * 0.5 + 0.3 * targets + 0.1
    after = two(0.3 * positive**2)
    assert (after[:, 1] < 0.5).all()
    found = recall_drop_at_equal_alarms(two(positive), after, targets, None)
    assert (found.passed, found.value) == (True, 0.0)


@pytest.mark.parametrize(("lost", "passed"), [(2, True), (5, True), (6, False), (12, False)])
def test_a_class_may_lose_what_chance_takes(lost: int, passed: bool) -> None:
    """Two classes of 50 rows, all found: 5 of 5 lost are chance at 2.5 % each (3.1 %), 6 are not (1.6 %)."""
    targets = np.repeat([1, 0], 50)
    before, after = np.where(targets, 0.9, 0.1), np.where(targets, 0.9, 0.1)
    after[:lost], after[50 : 50 + lost] = 0.2, 0.8
    found = recall_drop_at_equal_alarms(two(before), two(after), targets, None)
    assert (found.value, found.chance) == (pytest.approx(lost / 50), pytest.approx(0.5**lost))
    assert found.passed is passed
    assert found.low is not None
    assert found.low < found.value


def test_rows_that_share_the_last_place_share_its_alarms() -> None:
    """A constant answer at N alarms of M rows finds N/M of the class: here a half of what was found."""
    assert alarm_shares(np.full(4, 0.3), 2).tolist() == [0.5] * 4
    targets = np.repeat([1, 0], 50)
    found = recall_drop_at_equal_alarms(two(np.where(targets, 0.9, 0.1)), two(np.full(100, 0.3)), targets, None)
    assert (found.passed, found.value) == (False, pytest.approx(0.5))


def test_a_class_that_was_never_named_has_nothing_to_lose() -> None:
    """No alarms before: recall at equal alarms says nothing, and AUROC does."""
    rng = np.random.default_rng(1)
    targets = np.repeat([0, 1], [900, 100])
    positive = 0.2 + 0.1 * targets + 0.02 * rng.normal(size=1000)
    after = two(rng.permutation(positive))
    found = recall_drop_at_equal_alarms(two(positive), after, targets, None)
    assert (found.passed, found.class_index) == (True, 0)
    assert found.value < 0.03  # of class 0, all of which was named 0
    ranked = auroc_drop(two(positive), after, targets, None)
    assert (ranked.passed, ranked.class_index) == (False, 1)
    assert ranked.value == pytest.approx(roc_auc_score(targets, positive) - roc_auc_score(targets, after[:, 1]))


def test_the_area_and_its_error_are_those_of_independent_referees() -> None:
    """scikit-learn's area with ties; the error of a difference agrees with a bootstrap of rows and of groups."""
    rng = np.random.default_rng(2)
    hits = rng.random(300) < 0.3
    scores = [np.round(hits + spread * rng.normal(size=300), 1) for spread in (1.0, 1.3)]
    curves = [Roc(s, hits) for s in scores]
    for curve, s in zip(curves, scores, strict=True):
        assert curve.area == pytest.approx(roc_auc_score(hits, s))
    influences = (curves[0].influences() - curves[1].influences())[:, None]
    assert influences.sum() == pytest.approx(0, abs=1e-12)
    for groups, rel in ((None, 0.12), (rng.integers(60, size=300), 0.12)):
        ids = np.arange(300) if groups is None else groups
        members = [np.flatnonzero(ids == g) for g in np.unique(ids)]
        drawn = []
        for _ in range(400):
            rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
            drawn.append(Roc(scores[0][rows], hits[rows]).area - Roc(scores[1][rows], hits[rows]).area)
        assert unit_errors(influences, ResamplingUnits(groups, 300))[0] == pytest.approx(np.std(drawn), rel=rel)


def test_copies_of_rows_prove_nothing() -> None:
    """Ten copies of each row are stopped as rows, and as groups are judged as the rows alone."""
    rng = np.random.default_rng(3)
    targets = (rng.random(150) < 0.5).astype(int)
    before, after = (1 / (1 + np.exp(-(2 * targets - 1 + 1.5 * rng.normal(size=150)))) for _ in range(2))
    once = auroc_drop(two(before), two(after), targets, None)
    again = [np.repeat(values, 10, axis=0) for values in (two(before), two(after), targets)]
    careless, grouped = (auroc_drop(*again, groups) for groups in (None, np.repeat(np.arange(150), 10)))
    assert once.chance is not None
    assert careless.chance is not None
    assert abs(careless.chance - 0.5) > abs(once.chance - 0.5)
    assert grouped.chance == pytest.approx(once.chance, rel=1e-6)


LIMIT = 0.05


def test_the_chance_of_losing_is_the_exact_sign_test() -> None:
    """SciPy's binomial test is met exactly, and closely beyond 2,000 changed rows."""
    for lost, won in ((6, 1), (40, 22), (0, 3), (1100, 1000)):
        referee = binomtest(lost, lost + won, 0.5, alternative="greater").pvalue
        assert chance_of_losing(lost, won) == pytest.approx(referee, rel=0.01)


def test_missing_every_rare_positive_is_stopped() -> None:
    """3 positives of 1,000 rows, all found before and none after: stopped without a chance, and the class is named."""
    targets = np.zeros(1000, dtype=int)
    targets[:3] = 1
    before = np.where(targets[:, None] == 1, [0.4, 0.6], [0.6, 0.4])
    found = rare_classes_recall_drop(before, np.tile([0.997, 0.003], (1000, 1)), targets, None, LIMIT)
    assert (found.passed, found.class_index, found.value, found.chance) == (False, 1, 1.0, None)


def test_one_positive_row_is_enough_in_a_binary_problem_only() -> None:
    """The only positive is found no more: stopped; with six classes one row is an accident, two are not."""
    two = np.array([1] + [0] * 99)
    assert not rare_classes_recall_drop(answers(two, 2), answers(np.zeros(100, int), 2), two, None, LIMIT).passed
    six = np.array([1, 2, 2] + [0] * 97)
    for missed, passed in (([0], True), ([1, 2], False), ([1], True)):
        after = answers(changed(six, missed, 6), 6)
        assert rare_classes_recall_drop(answers(six, 6), after, six, None, LIMIT).passed is passed


def test_small_classes_together_are_tested_like_one() -> None:
    """Forty classes of 10 rows that lose one row each: 10 points that no single class could show."""
    targets = np.repeat(np.arange(40), 10)
    probs = answers(targets, 40), answers(changed(targets, range(0, 400, 10), 40), 40)
    found = rare_classes_recall_drop(*probs, targets, None, LIMIT)
    assert (found.passed, found.class_index) == (False, None)
    assert found.value == pytest.approx(0.1)
    assert worst_class_recall_drop(*probs, targets, None, LIMIT).value == 0.0


@pytest.mark.parametrize(("lost", "passed"), [(2, True), (3, True), (4, False), (12, False)])
def test_a_class_of_fifty_rows_may_lose_five_points_or_what_chance_takes(lost: int, passed: bool) -> None:
    """Two classes, 50 rows: 4 points are allowed, 6 are chance (3 of 3 rows: 12.5 %), 8 are not."""
    targets = np.repeat([0, 1], 50)
    after = answers(changed(targets, range(lost), 2), 2)
    found = worst_class_recall_drop(answers(targets, 2), after, targets, None, LIMIT)
    assert found.passed is passed
    assert (found.class_index, found.value) == (0, pytest.approx(lost / 50))
    assert found.chance == pytest.approx(0.5**lost)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_the_limit_is_the_one_that_is_given() -> None:
    """Eight of 50 rows lost: too many at 0.05, allowed at 0.2."""
    targets = np.repeat([0, 1], 50)
    probs = answers(targets, 2), answers(changed(targets, range(8), 2), 2)
    assert [worst_class_recall_drop(*probs, targets, None, limit).passed for limit in (0.05, 0.2)] == [False, True]


def test_a_group_that_lost_more_than_it_won_is_one_loss() -> None:
    """Four rows lost are no chance as rows (6.25 %), and are one as one group (50 %)."""
    targets = np.repeat([0, 1], 50)
    probs = answers(targets, 2), answers(changed(targets, range(4), 2), 2)
    groups = np.maximum(np.arange(100) - 3, 0)
    rows, grouped = (worst_class_recall_drop(*probs, targets, ids, LIMIT) for ids in (None, groups))
    assert (rows.passed, rows.chance) == (False, pytest.approx(0.0625))
    assert (grouped.passed, grouped.chance) == (True, pytest.approx(0.5))


def test_harmless_networks_are_seldom_stopped_by_a_class() -> None:
    """Ten classes of 100 rows, 8 % of the answers changed by luck: the guard stops fewer than one in four."""
    rng, stopped = np.random.default_rng(2), 0
    targets = np.repeat(np.arange(10), 100)
    for _ in range(100):
        draw = rng.random(1000)
        before = answers(changed(targets, np.flatnonzero(draw < 0.04).tolist(), 10), 10)
        after = answers(changed(targets, np.flatnonzero((draw > 0.04) & (draw < 0.08)).tolist(), 10), 10)
        stopped += not worst_class_recall_drop(before, after, targets, None, LIMIT).passed
    assert stopped < 25
