"""The accuracy of a split: its standard error, and when two splits are apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.report import SplitAccuracy


def test_rows_and_groups_have_the_errors_of_the_textbook() -> None:
    """Of single rows √(p(1−p)/(N−1)); of groups of one size the standard error of the mean of their accuracies."""
    correct = np.random.default_rng(0).random(400) < 0.8
    alone = SplitAccuracy.of(correct)
    assert alone.error == pytest.approx(correct.std(ddof=1) / 20)
    of_groups = correct.reshape(40, 10).mean(axis=1)
    together = SplitAccuracy.of(correct, groups=np.repeat(np.arange(40), 10))
    assert (together.value, together.num_units) == (pytest.approx(correct.mean()), 40)
    assert together.error == pytest.approx(of_groups.std(ddof=1) / np.sqrt(40))


def test_a_weight_of_two_is_the_row_twice() -> None:
    """In whole groups: the accuracy and its error are those of the population that the weights stand for."""
    correct, groups = np.random.default_rng(1).random(300) < 0.7, np.arange(300) % 30
    twice = np.arange(300) % 3 == 0
    weighted = SplitAccuracy.of(correct, groups=groups, weights=1 + twice)
    repeated = SplitAccuracy.of(np.repeat(correct, 1 + twice), groups=np.repeat(groups, 1 + twice))
    assert (weighted.value, weighted.error) == (pytest.approx(repeated.value), pytest.approx(repeated.error))


def grouped(rng: np.random.Generator, mean: float, num_groups: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Groups of 25 rows; an easy group is always right, the others never."""
    easy = rng.random(num_groups) < mean
    return np.repeat(easy, 25), np.repeat(np.arange(num_groups), 25)


def test_chance_among_groups_is_no_sign() -> None:
    """Two splits of the same patients' kind are called apart in under 1 % of draws, by rows it would be every other.

    A split whose patients are really easier is still found.
    """
    rng = np.random.default_rng(2)
    alarms = {"groups": 0, "rows": 0, "easier": 0}
    for _ in range(300):
        (before, groups), (now, others), (easier, _) = (grouped(rng, mean, 60) for mean in (0.8, 0.8, 1.0))
        judged = SplitAccuracy.of(now, groups=others)
        alarms["groups"] += SplitAccuracy.of(before, groups=groups).is_apart(judged)
        alarms["rows"] += SplitAccuracy.of(before).is_apart(SplitAccuracy.of(now))
        alarms["easier"] += SplitAccuracy.of(easier, groups=groups).is_apart(judged)
    assert alarms["groups"] <= 3
    assert alarms["rows"] > 100
    assert alarms["easier"] > 150


def test_one_group_tells_nothing() -> None:
    """How patients vary cannot be seen in one patient, so nothing is suspected."""
    right, wrong = np.ones(500), np.zeros(500)
    assert not SplitAccuracy.of(right, groups=np.zeros(500)).is_apart(SplitAccuracy.of(wrong))
