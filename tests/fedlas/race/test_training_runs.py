"""A training is watched between its epochs too: the budget ends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedlas.progress import JobProgress
from fedlas.race import training_runs
from fedlas.race.context import ProgressReporter
from fedlas.race.record import Record
from fedlas.race.schedule import BudgetExceeded, TimeBudget
from fedlas.race.training_runs import PlannedTraining, TrainingWatch
from tests.helpers.races import HOT


def test_what_comes_after_the_race_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings have 50 of 100 s, where 30 are gone and 20 kept, and a grace of 7."""
    monkeypatch.setattr(Record, "elapsed", lambda _: 30.0)
    budget = TimeBudget(100.0)
    budget.reserve = 20.0
    assert budget.longest == pytest.approx(57.0)
    assert (budget.fits(56.9), budget.fits(57.1)) == (True, False)


def test_a_training_ends_where_its_speed_says_that_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter that took 10 s needs 30 more; planned for 20 it is twice as slow, and so is what comes after it."""
    monkeypatch.setattr(Record, "elapsed", lambda _: 30.0)
    budget = TimeBudget(100.0)  # 77 s with the grace
    budget.check(0.25, 10.0, planned=20.0, after=23.4)
    with pytest.raises(BudgetExceeded):
        budget.check(0.25, 10.0, planned=20.0, after=23.6)
    budget.check(1.0, 1e9, planned=1.0)


def watch(budget: TimeBudget) -> TrainingWatch:
    planned = PlannedTraining(replace(HOT, epochs=2), 0, 1, 0, 3, 10.0)
    return TrainingWatch(ProgressReporter(JobProgress(), Record()), budget, planned)


def test_a_long_epoch_is_ended_before_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that would take hours end within seconds, though no epoch is over; too few say nothing yet."""
    now = [0.0]
    monkeypatch.setattr(training_runs.time, "perf_counter", lambda: now[0])
    watched = watch(TimeBudget(60.0))
    watched.on_share(0.001)
    now[0] = 6.0
    watched.on_share(0.02)
    now[0] = 12.0
    with pytest.raises(BudgetExceeded):
        watched.on_share(0.03)


def test_what_an_earlier_attempt_did_tells_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that a checkpoint holds took no time here: the rest is judged by the steps of this attempt."""
    now = [0.0]
    monkeypatch.setattr(training_runs.time, "perf_counter", lambda: now[0])
    watched = watch(TimeBudget(60.0))
    watched.on_share(0.9)
    now[0] = 6.0
    watched.on_share(0.95)  # 114 s for all of it, of which 6 are left
    now[0] = 100.0
    with pytest.raises(BudgetExceeded):
        watched.on_share(0.951)
