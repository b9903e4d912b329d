"""A race spread over several processes ends with the bits of one that is run alone, whoever trained what."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedlas.progress import JobProgress
from fedlas.race import record
from fedlas.race.candidates import Candidate
from fedlas.race.context import TrainingRows
from fedlas.race.journal import FolderJournal
from fedlas.race.participant import Participant
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.race import run_race
from fedlas.race.results import RaceProgress, RaceResult
from fedlas.race.rungs import Rung
from fedlas.race.setup import RaceSetup
from fedlas.race.training_events import TrainingEvent
from fedlas.training.checkpoints import State, read_state, write_state
from tests.helpers.races import HEAD, HOT, HOT_PLUS, PLAIN, bits, said
from tests.helpers.small_classifier import noisy_digits, overconfident_classifier

#: Five networks run two folds, one of them to no end, and the best three the third; a head runs all; one is
#: refitted, by the leader.
LINE = [
    *(replace(one, epochs=2) for one in (HOT, PLAIN, HOT_PLUS)),
    *(Candidate("cross_entropy", rate, epochs=1, scope="all") for rate in (1e30, 0.02)),
    HEAD,
]


def setup(**changed: Any) -> RaceSetup:
    """The race, as each process has opened it for itself."""
    train, calibration, _ = noisy_digits()
    given: dict[str, Any] = {"candidates": LINE, "budget_seconds": 600, "max_cost_factor": 3.0, **changed}
    return RaceSetup(
        classifier=overconfident_classifier(),
        training=TrainingRows.of(train, calibration),
        calibration=calibration,
        calibrators=("temperature",),
        **given,
    )


class Lost(BaseException):
    """The end of a process; nothing in a race catches it."""


class Process:
    """A process of the race: its folder, and what it tells."""

    def __init__(self, folder: Path, known: dict[str, Path] | None = None) -> None:
        self.left: dict[str, Path] = {}
        self.events: list[TrainingEvent] = []
        self.told: list[RaceProgress] = []
        self.journal = FolderJournal(
            folder,
            key="k",
            known=known or {},
            every_seconds=0,
            on_saved=lambda name, file: self.left.update({name: folder / file}),
        )

    def lead(
        self, spread: Processes | None = None, *, progress: JobProgress | None = None, **changed: Any
    ) -> RaceResult:
        """Lead the race to its end."""
        return run_race(
            **vars(setup(**changed)),
            journal=self.journal,
            on_training=self.events.append,
            on_progress=self.told.append,
            spread=spread,
            progress=progress,
        )

    def participant(self, on_progress: Callable[[RaceProgress], None] | None = None) -> Participant:
        """Take part."""
        return Participant(
            setup(), journal=self.journal, on_training=self.events.append, on_progress=on_progress or self.told.append
        )


class Processes:
    """Two processes take turns at the trainings of each rung; `leave` says what the leader finds of the other's."""

    from_seconds = 0.0

    def __init__(self, folder: Path, *, spent: float = 0.0) -> None:
        self.leader, self.other = Process(folder / "leader"), Process(folder / "other")
        self._participant = self.other.participant()
        self._waiting: list[PlannedTraining] = []
        self._turn = count()
        self._spent = spent
        self.rungs: list[Rung] = []

    def leave(self, name: str, file: Path) -> Path:
        return file

    def offer(self, rung: Rung) -> None:
        self.rungs.append(rung)
        self._waiting = [PlannedTraining.of(json.loads(json.dumps(one.as_dict()))) for one in rung.trainings]

    def next(self) -> PlannedTraining | None:
        while self._waiting:
            planned = self._waiting.pop(0)
            if next(self._turn) % 2:
                return planned
            self._participant.train(planned, spent_seconds=self._spent)
        outcomes = {name: file for name, file in self.other.left.items() if name != "running"}
        self.leader.journal.learn({name: self.leave(name, file) for name, file in outcomes.items()})
        return None


@cache
def alone() -> tuple[RaceResult, list[TrainingEvent]]:
    """The race in one process."""
    events: list[TrainingEvent] = []
    return run_race(**vars(setup()), on_training=events.append), events


def test_two_processes_race_as_one(tmp_path: Path) -> None:
    """Folds and later folds by turns: the same bits, each trained once, each told of once and by its trainer.

    The other one decides nothing: it leaves outcomes and states alone.
    """
    whole, events = alone()
    ended = [one.status for one in whole.candidates[1:]]
    assert sorted(ended) == ["diverged", *["eliminated"], *["finished"] * 4]
    pair, progress = Processes(tmp_path), JobProgress()
    result = pair.leader.lead(pair, progress=progress)
    assert bits(result) == bits(whole)
    assert [len(rung.trainings) for rung in pair.rungs] == [10, 3, 3]
    mine, theirs = set(pair.leader.left) - {"decisions", "running"}, set(pair.other.left) - {"running"}
    assert not mine & theirs
    offered = {one.name for rung in pair.rungs for one in rung.trainings}
    assert offered == {name for name in mine | theirs if not name.endswith("refit")}
    both = said([*pair.leader.events, *pair.other.events])
    assert len(both) == len(set(both))
    assert set(said(events)) <= set(both), "and of a fold that one process alone would not have begun"
    shares = [one.fraction for one in pair.leader.told]
    assert shares == sorted(shares)
    assert all(0 <= rung.begin < rung.end <= 1 for rung in pair.rungs)
    assert all(later.begin >= rung.end for rung, later in pairwise(pair.rungs)), "what others do moves the job, too"
    assert (progress.position().fraction, progress.position().eta_seconds) == (1.0, 0.0)


def test_a_leader_that_is_lost_finds_what_was_trained(tmp_path: Path) -> None:
    """The next leader offers what has no outcome yet, and ends with the same bits."""
    pair = Processes(tmp_path)

    def lost(*_: object) -> None:
        raise Lost

    pair.next = lost  # type: ignore[method-assign, assignment]
    with pytest.raises(Lost):
        pair.leader.lead(pair)
    for planned in pair.rungs[0].trainings[:4]:
        pair.other.participant().train(planned, spent_seconds=0.0)
    later = Processes(tmp_path / "later")
    later.leader = Process(tmp_path / "again", known={**pair.leader.left, **pair.other.left})
    assert bits(later.leader.lead(later)) == bits(alone()[0])
    assert [len(rung.trainings) for rung in later.rungs] == [6, 3, 3]


def test_a_participant_that_is_lost_costs_an_epoch(tmp_path: Path) -> None:
    """The next one goes on after the last epoch that was saved, with the same outcome."""
    planned = PlannedTraining(replace(HOT, epochs=5), 0, 5, 1, 3)

    def lost(progress: RaceProgress) -> None:
        if progress.epoch == 4:
            raise Lost

    first, second, whole = (Process(tmp_path / name) for name in ("first", "second", "whole"))
    with pytest.raises(Lost):
        first.participant(lost).train(planned, spent_seconds=0.0)
    another = second.participant()
    another.train(replace(planned, place=1, candidate=HEAD), spent_seconds=0.0)
    second.told.clear()
    second.journal.learn(first.left)
    outcome = another.train(planned, spent_seconds=0.0)
    assert [one.epoch for one in second.told] == [0, 4, 5]
    expected = whole.participant().train(planned, spent_seconds=0.0)
    assert outcome.logits is not None
    assert expected.logits is not None
    np.testing.assert_array_equal(outcome.logits, expected.logits)


def older(state: State) -> State:
    """The entry of a worker with another release of PyTorch."""
    return {**state, "race": state["race"].replace(torch.__version__, "1.13.0")}


def other_format(state: State) -> State:
    """The entry of a worker of another release of ours."""
    return {**state, "race": state["race"].replace(f'"format": {record._FORMAT}', '"format": 0')}


def empty(state: State) -> State:
    """An entry without its logits."""
    return {**state, "content": {**state["content"], "arrays": {}}}


def test_what_does_not_fit_is_trained_by_the_leader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Outcomes of other code or another PyTorch, damaged ones and broken files: trained again, with lines in the log.

    A training that an earlier plan had offered is trained when it is ordered, and is nobody's outcome.
    """
    damages, given = [older, other_format, empty, None], count()
    stray = PlannedTraining(replace(HOT, epochs=1), 8, 9, 0, 3)

    class Damaging(Processes):
        def next(self) -> PlannedTraining | None:
            return stray if next(given) == 0 else super().next()

        def leave(self, name: str, file: Path) -> Path:
            damage, left = damages[int(name.split("-")[1]) % len(damages)], file.with_name(f"x{file.name}")
            if damage is None:
                left.write_bytes(b"PK nothing")
            elif (state := read_state(file)) is not None:
                write_state(left, damage(state))
            return left

    pair = Damaging(tmp_path)
    assert bits(pair.leader.lead(pair)) == bits(alone()[0])
    assert stray.name in pair.leader.left
    for line in ("is of another race and is ignored", "does not fit and is trained again", "cannot be read"):
        assert line in caplog.text


def test_a_clock_that_cuts_a_training_is_named(tmp_path: Path) -> None:
    """Where no time is left a participant leaves that as the outcome, the leader takes it, and the report says so."""
    late = Processes(tmp_path, spent=1e6)
    result = late.leader.lead(late)
    (note,) = [note for note in result.notes if "A clock decided" in note]
    networks = [one for one in result.candidates if one.scope == "all"]
    assert [one.status for one in networks] == ["skipped"] * 5
    assert all(f"{one.name}, fold 1 of 3" in note for one in networks)
    assert not late.other.events


def test_small_rungs_stay_here(tmp_path: Path) -> None:
    """Below the planned seconds from which it pays nothing is offered."""
    pair = Processes(tmp_path)
    pair.from_seconds = math.inf
    assert pair.leader.lead(pair, candidates=[HEAD]).trained is not None
    assert not pair.rungs
