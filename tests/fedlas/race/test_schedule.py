"""The candidates and their times within a budget, and the highest learning rate that a network bears."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlas.race.schedule import Plan, PlannedCandidate, plan
from fedlas.race.trainer import capped_epochs
from fedlas.training.fit import (
    MAX_LEARNING_RATE,
    MIN_LEARNING_RATE,
    STEPS,
    Floats,
    _edge,
    edge_rate,
    head_edge_rate,
    predict_logits,
)
from fedlas.training.loop import steps_per_epoch
from tests.helpers.small_classifier import noisy_digits, overconfident_classifier


def places(found: Plan) -> list[int]:
    return [one.place for one, _ in found.candidates]


def test_three_candidates_run_all_folds() -> None:
    """Three candidates of ten epochs of a second, a quarter of whose rows calibrate: 3 x 3 x 9.17 s and one refit."""
    line = [PlannedCandidate(i, 10, 1.0, 0.25) for i in range(3)]
    needed = 3 * 3 * 10 * (1 - 0.25 / 3) + 10
    found = plan(line, needed + 1e-9, num_folds=3)
    assert (places(found), found.first_folds, found.folds) == ([0, 1, 2], 3, 3)
    assert found.seconds == pytest.approx(needed)
    assert places(plan(line, needed - 0.1, num_folds=3)) == [0, 1], "the last in line stays away first"


def test_of_many_the_best_three_run_the_third_fold() -> None:
    """Eight candidates run two folds each, the best three one more: 16 + 3 trainings without a fold, and a refit."""
    line = [PlannedCandidate(i, 10, 1.0, 0.3) for i in range(8)]
    found = plan(line, math.inf, num_folds=3)
    assert (len(found.candidates), found.first_folds, found.folds) == (8, 2, 3)
    assert found.seconds == pytest.approx((16 + 3) * 9 + 10)
    assert plan(line, math.inf, num_folds=3, refits=2).seconds == pytest.approx((16 + 3) * 9 + 20)
    two = plan(line, math.inf, num_folds=2)
    assert (two.first_folds, two.folds) == (2, 2), "two groups can be left out, one after the other"


def test_one_candidate_is_shortened_before_folds_are_given_up() -> None:
    """Where ten epochs on three folds do not fit there are fewer, at least half; then two folds."""
    line = [PlannedCandidate(0, 10, 1.0, 0.3), PlannedCandidate(1, 10, 1.0, 0.3)]
    assert plan(line, 37.1, num_folds=3).written() == {"epochs": [[0, 10]], "first_folds": 3, "folds": 3}
    assert plan(line, 25, num_folds=3).written() == {"epochs": [[0, 6]], "first_folds": 3, "folds": 3}
    assert plan(line, 18, num_folds=3).written() == {"epochs": [[0, 6]], "first_folds": 2, "folds": 2}
    fixed = [PlannedCandidate(0, 10, 1.0, 0.3, may_shorten=False)]
    assert plan(fixed, 30, num_folds=3).written() == {"epochs": [[0, 10]], "first_folds": 2, "folds": 2}
    assert plan(fixed, 25, num_folds=3) == Plan()


@pytest.mark.parametrize("seconds", [0.0, -5.0, 2.0])
def test_nothing_fits(seconds: float) -> None:
    """A budget under the cheapest run leaves an empty plan; so does an empty line."""
    assert plan([PlannedCandidate(0, 10, 1.0), PlannedCandidate(1, 10, 1.0)], seconds, num_folds=3) == Plan()
    assert plan([], 100.0, num_folds=3) == Plan()


def test_a_later_plan_takes_what_fits() -> None:
    """Candidates that ran count and may be refitted; a cheaper one passes the first, or a shorter one does."""
    ran = [(PlannedCandidate(0, 12, 1.0, 0.3), 12)]
    line = [PlannedCandidate(1, 25, 1.0, 0.3), PlannedCandidate(2, 10, 1.0, 0.3)]
    assert places(plan(line, 3 * 9 + 12.1, num_folds=3, ran=ran)) == [2]
    shorter = plan(line, 3 * 9 + 11.9, num_folds=3, ran=ran)
    assert shorter.written() == {"epochs": [[2, 9]], "first_folds": 3, "folds": 3}
    assert shorter.seconds == pytest.approx(3 * 0.9 * 9 + 12)
    assert places(plan(line[:1], 3 * 9 + 12.1, num_folds=3, ran=ran)) == [1], "10 of 25 epochs, where no other is left"
    assert plan(line, 3 * 0.9 * 2 + 11.9, num_folds=3, ran=ran) == Plan(), "two epochs, at the least"
    found = plan([PlannedCandidate(i, 10, 1.0, 0.3) for i in (1, 2, 3)], math.inf, num_folds=3, ran=ran)
    assert (len(found.candidates), found.first_folds, found.folds) == (3, 2, 3)
    assert found.seconds == pytest.approx(9 * 9 + 12)


def test_a_plan_never_exceeds_its_budget() -> None:
    """Over random lines and budgets a plan keeps the budget and takes the first in line, each once."""
    rng = np.random.default_rng(0)
    folds = set()
    for _ in range(300):
        count = rng.integers(1, 12)
        line = [PlannedCandidate(i, int(rng.integers(1, 12)), *rng.uniform(0.1, 1, 3).tolist()) for i in range(count)]
        budget = float(rng.uniform(0, 200))
        found = plan(line, budget, num_folds=3, refits=int(rng.integers(1, 3)))
        assert found.seconds <= budget
        assert places(found) == list(range(len(found.candidates)))
        folds.add((found.first_folds, found.folds))
    assert folds == {(0, 0), (2, 2), (2, 3), (3, 3)}


def test_epochs_are_fewer_where_rows_abound() -> None:
    """Epochs are as many as asked for, at most 20,000 steps, never under two; a single one stays."""
    found = [capped_epochs(10, rows, 64) for rows in (1, 1000, 128_000, 256_000, 640_000, 10**7)]
    assert found == [10, 10, 10, 5, 2, 2]
    assert capped_epochs(10, 256_000, 64) * steps_per_epoch(256_000, 64) == 20_000
    assert (capped_epochs(25, 1000, 64), capped_epochs(1, 10**7, 64)) == (25, 1)
    assert capped_epochs(10, 10_000, 64, scope="head") == 4


def test_a_heads_edge_is_four_over_the_mean_squared_norm() -> None:
    """4 / E‖f‖² for features of any size, capped where they are tiny or zero."""
    features: Floats = np.array([[3.0, 4.0], [0.0, 5.0], [10.0, 0.0]], dtype=np.float32)
    assert head_edge_rate(features) == pytest.approx(4 / 50)
    assert head_edge_rate(np.float32(1000) * features) == pytest.approx(4 / 50e6)
    assert head_edge_rate(np.float32(0.01) * features) == head_edge_rate(np.zeros_like(features)) == MAX_LEARNING_RATE


def test_half_a_heads_edge_holds_and_twelve_times_it_does_not() -> None:
    """Plain gradient descent on a head falls at half the edge and its loss rises at twelve times the edge."""
    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(size=(400, 20))) + 2
    seen, labels = torch.from_numpy(features), torch.from_numpy(rng.integers(0, 2, 400))

    def last_loss(rate: float) -> float:
        weight = torch.zeros(20, 2, dtype=torch.float64, requires_grad=True)
        for _ in range(60):
            (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(seen @ weight, labels), weight)
            weight = (weight - rate * gradient).detach().requires_grad_()
        return float(torch.nn.functional.cross_entropy(seen @ weight.detach(), labels))

    edge = head_edge_rate(features.astype(np.float32))
    assert last_loss(0.5 * edge) < math.log(2)
    assert last_loss(12 * edge) > math.log(2)


RATES = np.geomspace(1e-4, 1.6, STEPS)


@pytest.mark.parametrize("jump", [30, 50, 70])
@pytest.mark.parametrize("level", [0.001, 2.0])
def test_the_edge_lies_just_before_the_jump(jump: int, level: float) -> None:
    """A loss that is flat and then jumps by log K: the edge is at most four steps before the jump, never after it."""
    losses = np.where(np.arange(STEPS) < jump, level, level + math.log(10))
    assert jump - 4 <= int(np.searchsorted(RATES, _edge(RATES, losses, 10) * (1 - 1e-9))) < jump


def test_noise_and_a_falling_loss_are_no_edge() -> None:
    """A loss that falls with noise of a twentieth of log K stands the highest rate."""
    noise = np.random.default_rng(0).normal(scale=0.05 * math.log(10), size=STEPS)
    assert _edge(RATES, np.linspace(2.0, 0.5, STEPS) + noise, 10) == RATES[-1]


def test_a_loss_that_is_not_finite_ends_the_range() -> None:
    """NaN or infinity counts as risen, wherever the losses stop."""
    for bad in (np.nan, np.inf):
        assert RATES[36] <= _edge(RATES[:41], np.append(np.full(40, 0.1), bad), 10) < RATES[40]


def test_at_once_lost_stands_the_lowest_rate() -> None:
    """A loss that is NaN from the first step leaves a rate among the lowest, and no error."""
    assert _edge(RATES[:1], np.array([np.nan]), 10) == RATES[0]
    assert RATES[0] <= _edge(RATES[:6], np.full(6, np.nan), 10) <= RATES[4]


def test_larger_inputs_stand_a_smaller_rate() -> None:
    """The digits network stands the highest rate, and the less the larger its inputs are; a copy is tested."""
    (inputs, _), *_ = noisy_digits()
    network, edges = overconfident_classifier(), []
    before = predict_logits(network, inputs)[0]
    for scale in (1, 10, 100):
        edges.append(edge_rate(network, [np.float32(scale) * inputs[0]], seed=0))
    assert MIN_LEARNING_RATE < edges[2] < edges[1] < edges[0] == MAX_LEARNING_RATE
    assert edge_rate(network, inputs, seed=0) == edges[0]
    assert np.array_equal(before, predict_logits(network, inputs)[0])


def test_few_rows_are_seen_again() -> None:
    """Seven rows in batches of 64 still give a range test of eighty steps."""
    (inputs, _), *_ = noisy_digits()
    assert MIN_LEARNING_RATE < edge_rate(overconfident_classifier(), [inputs[0][:7]]) <= MAX_LEARNING_RATE
