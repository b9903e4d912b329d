"""Recall at the most probable class, for those who ask for it: what is stopped, and what chance excuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from fedlas.gate.recall import rare_classes_recall_drop, worst_class_recall_drop
from fedlas.gate.sign_test import chance_of_losing

LIMIT = 0.05


def answers(predicted: np.ndarray, num_classes: int, confidence: float = 0.9) -> np.ndarray:
    """Probabilities whose top label is the one that is predicted."""
    probs = np.full((len(predicted), num_classes), (1 - confidence) / (num_classes - 1))
    probs[np.arange(len(predicted)), predicted] = confidence
    return probs


def changed(targets: np.ndarray, rows: range | list[int], num_classes: int) -> np.ndarray:
    """All right but for the rows given."""
    predicted = targets.copy()
    predicted[list(rows)] = (targets[list(rows)] + 1) % num_classes
    return answers(predicted, num_classes)


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
    never = answers(np.zeros(100, int), 2)
    assert not rare_classes_recall_drop(answers(two, 2), never, two, None, LIMIT).passed
    six = np.array([1, 2, 2] + [0] * 97)
    for missed, passed in (([0], True), ([1, 2], False), ([1], True)):
        after = changed(six, missed, 6)
        assert rare_classes_recall_drop(answers(six, 6), after, six, None, LIMIT).passed is passed


def test_small_classes_together_are_tested_like_one() -> None:
    """Forty classes of 10 rows that lose one row each: 10 points that no single class could show."""
    targets = np.repeat(np.arange(40), 10)
    probs = answers(targets, 40), changed(targets, range(0, 400, 10), 40)
    found = rare_classes_recall_drop(*probs, targets, None, LIMIT)
    assert (found.passed, found.class_index) == (False, None)
    assert found.value == pytest.approx(0.1)
    assert worst_class_recall_drop(*probs, targets, None, LIMIT).value == 0.0


@pytest.mark.parametrize(("lost", "passed"), [(2, True), (3, True), (4, False), (12, False)])
def test_a_class_of_fifty_rows_may_lose_five_points_or_what_chance_takes(lost: int, passed: bool) -> None:
    """Two classes, 50 rows: 4 points are allowed, 6 are chance (3 of 3 rows: 12.5 %), 8 are not."""
    targets = np.repeat([0, 1], 50)
    found = worst_class_recall_drop(answers(targets, 2), changed(targets, range(lost), 2), targets, None, LIMIT)
    assert found.passed is passed
    assert (found.class_index, found.value) == (0, pytest.approx(lost / 50))
    assert found.chance == pytest.approx(0.5**lost)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_the_limit_is_the_one_that_is_given() -> None:
    """Eight of 50 rows lost: too many at 0.05, allowed at 0.2."""
    targets = np.repeat([0, 1], 50)
    probs = answers(targets, 2), changed(targets, range(8), 2)
    assert [worst_class_recall_drop(*probs, targets, None, limit).passed for limit in (0.05, 0.2)] == [False, True]


def test_a_group_that_lost_more_than_it_won_is_one_loss() -> None:
    """Four rows lost are no chance as rows (6.25 %), and are one as one group (50 %)."""
    targets = np.repeat([0, 1], 50)
    probs = answers(targets, 2), changed(targets, range(4), 2)
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
        before = changed(targets, np.flatnonzero(draw < 0.04).tolist(), 10)
        after = changed(targets, np.flatnonzero((draw > 0.04) & (draw < 0.08)).tolist(), 10)
        stopped += not worst_class_recall_drop(before, after, targets, None, LIMIT).passed
    assert stopped < 25
