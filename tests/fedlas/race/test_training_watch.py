"""A training is watched between its epochs too: what it reached is told, and the budget ends it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from fedlas.progress import TRAINING, JobProgress
from fedlas.race import training_watch
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.progress import ProgressReporter
from fedlas.race.record import Record
from fedlas.race.results import RaceProgress
from fedlas.race.time_budget import BudgetExceeded, TimeBudget
from fedlas.race.training_watch import TrainingWatch
from fedlas.training.loop import EpochResult
from tests.helpers.races import HEAD, HOT, PLAIN, race


def test_what_comes_after_the_race_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 s, 30 of them gone and 20 kept, 50 and a grace of 7 are left for trainings."""
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


def watch(budget: TimeBudget, seen: list[RaceProgress], *, work: float = 10.0) -> tuple[TrainingWatch, JobProgress]:
    progress = JobProgress()
    progress.expect("fold", work, kind=TRAINING)
    progress.begin("fold")
    reporter = ProgressReporter(progress, Record(), seen.append, None)
    planned = PlannedTraining(replace(HOT, epochs=2), 0, 1, 0, 3, work, 0.0, trained_share=0.8)
    return TrainingWatch(reporter, budget, planned), progress


def test_a_long_epoch_is_ended_before_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that would take hours end within seconds, though no epoch is over; too few say nothing yet."""
    now = [0.0]
    monkeypatch.setattr(training_watch.time, "perf_counter", lambda: now[0])
    watched, _ = watch(TimeBudget(60.0), [])
    watched.on_share(0.001)
    now[0] = 6.0
    watched.on_share(0.02)
    now[0] = 12.0
    with pytest.raises(BudgetExceeded):
        watched.on_share(0.03)


def test_what_an_earlier_attempt_did_tells_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that a checkpoint holds took no time here: the rest is judged by the steps of this attempt."""
    now = [0.0]
    monkeypatch.setattr(training_watch.time, "perf_counter", lambda: now[0])
    watched, _ = watch(TimeBudget(60.0), [])
    watched.on_share(0.9)
    now[0] = 6.0
    watched.on_share(0.95)  # 114 s for all of it, of which 6 are left
    now[0] = 100.0
    with pytest.raises(BudgetExceeded):
        watched.on_share(0.951)


def test_steps_are_a_share_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a fifth of a training is scoring its last step leaves a fifth to come."""
    seen: list[RaceProgress] = []
    watched, _ = watch(TimeBudget(60.0), seen)
    watched.begins()
    watched.on_share(1.0)
    watched.on_epoch(EpochResult(2, 2, 0.0, 1.0))
    assert [(one.epoch, one.epochs) for one in seen] == [(0, 2), (2, 2)]
    assert seen[-1].eta_seconds == pytest.approx(0.2 * 10, rel=0.2)


def test_a_race_moves_in_small_steps() -> None:
    """Over a small race the share never falls, and no training, refit or pool lets it jump by a third of the whole."""
    race(HEAD)  # the first race of a process loads what the others find
    seen: list[RaceProgress] = []
    progress = JobProgress()
    progress.expect(TRAINING, 60.0, kind=TRAINING)
    race(HOT, PLAIN, HEAD, on_progress=seen.append, progress=progress)
    shares = [one.fraction for one in seen]
    assert shares[0] < 0.5
    steps = [two - one for one, two in pairwise([*shares, progress.position().fraction])]
    assert min(steps) >= 0
    assert max(steps) < 0.34
    assert progress.position().eta_seconds < 1.0, "nothing that was expected has been forgotten"
