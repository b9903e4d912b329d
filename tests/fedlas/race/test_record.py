"""A race that is killed and begun again with its journal: the same finalists, nothing finished is trained again."""

from __future__ import annotations

import copy
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlas.contract.events import (
    CandidateEnded,
    CandidateEvent,
    EpochEvent,
    Progress,
    ReportedEvent,
    ScoreEvent,
    TrainingEvent,
)
from fedlas.observer import Observer
from fedlas.race import schedule
from fedlas.race.candidates import Candidate
from fedlas.race.race import RaceOptions, RaceRows, run_race
from fedlas.race.record import FolderJournal, Journal, Record
from fedlas.race.results import RaceResult
from fedlas.training.checkpoints import State
from tests.helpers.races import bits, said, training_rows
from tests.helpers.small_classifier import noisy_digits, overconfident_classifier

pytestmark = pytest.mark.slow

HOT = Candidate("fedlas", 0.2, alpha=0.2, beta=4.0, momentum=0.95, epochs=4, scope="all")
HOT_PLUS = Candidate("fedlas_plus", 0.2, alpha=0.1, beta=0.5, momentum=0.95, margin=6.0, epochs=4, scope="all")
HEAD = Candidate("cross_entropy", 0.05, epochs=3, scope="head")


class MemoryJournal(Journal):
    """A journal in memory."""

    def __init__(self, key: str = "", *, every_seconds: float = 0.5) -> None:
        super().__init__(key, every_seconds=every_seconds)
        self.entries: dict[str, State] = {}

    def read(self, name: str) -> State | None:
        return self.entries.get(name)

    def write(self, name: str, entry: State) -> None:
        self.entries[name] = copy.deepcopy(entry)


class Killed(BaseException):
    """Nothing in a race catches it."""


class Run(Observer):
    """One attempt at a race: its events, and its result."""

    def __init__(
        self,
        journal: Journal | None,
        *,
        kill_at: int | None = None,
        events: list[ReportedEvent] | None = None,
        candidates: Sequence[Candidate] = (HOT, HOT_PLUS),
        **options: Any,
    ) -> None:
        self.told: list[tuple[str | None, int | None]] = []
        self.events = [] if events is None else events
        self.ended: list[CandidateEnded] = []
        self._calls, self._kill_at = itertools.count(1), kill_at
        train, calibration, _ = noisy_digits()
        settings = {"budget_seconds": 600, "max_cost_factor": 2.0, "calibrators": ("temperature",), **options}
        self.result: RaceResult = run_race(
            overconfident_classifier(),
            RaceRows(calibration, training_rows(train, calibration)),
            candidates,
            RaceOptions(**settings),
            journal=journal,
            observer=self,
        )

    def on_event(self, event: ReportedEvent) -> None:
        if isinstance(event, CandidateEvent):
            self.ended.append(event.data)
        else:
            self.events.append(event)

    def on_progress(self, progress: Progress) -> None:
        self.told.append((progress.candidate, progress.epoch))
        if next(self._calls) == self._kill_at:
            raise Killed


def killed(journal: Journal | None, kill_at: int, **options: Any) -> None:
    with pytest.raises(Killed):
        Run(journal, kill_at=kill_at, **options)


@cache
def undisturbed() -> Run:
    return Run(None)


def test_a_race_killed_at_any_call_goes_on() -> None:
    """A race killed at any call has equal bits and runs no saved epoch twice; an epoch may be reported twice."""
    whole = undisturbed()
    assert whole.result.candidates[-1].method == "average"
    assert str(whole.told[-1][0]).endswith("on all rows")
    assert "trained" in whole.result.finalists
    for kill_at in range(1, len(whole.told) + 1, 4):
        journal = MemoryJournal(every_seconds=0)
        events: list[ReportedEvent] = []
        killed(journal, kill_at, events=events)
        again = Run(journal, events=events)
        assert bits(again.result) == bits(whole.result), kill_at
        ran = [step for step in again.told if step[1]]
        assert ran == [step for step in whole.told[kill_at - 1 :] if step[1]]
        assert dict.fromkeys(said(events)) == dict.fromkeys(said(whole.events)), "nothing of it was told to nobody"


def test_trainings_are_told_of() -> None:
    """Each begins, tells every epoch with a loss and a falling rate, and is scored where it leaves a fold out."""
    whole = undisturbed()
    begun = [event.data for event in whole.events if isinstance(event, TrainingEvent)]
    refit = (begun[-1].number, None)
    assert [(one.number, one.fold) for one in begun] == [*itertools.product((1, 2), (1, 2, 3)), refit]
    assert {(one.candidates, one.folds, one.epochs) for one in begun[:-1]} == {(2, 3, 4)}
    assert "".join(event.type[0] for event in whole.events) == 6 * "teeees" + "teeee"
    course = [event.data for event in whole.events[1:5] if isinstance(event, EpochEvent)]
    assert [(one.epoch, one.epochs) for one in course] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert course[0].loss > course[-1].loss
    rates = [one.learning_rate or 0.0 for one in course]
    assert sorted(rates, reverse=True) == rates
    assert 0 < rates[-1] < rates[0] < HOT.learning_rate
    scored = {one.data.number: one.data.nll for one in whole.events if isinstance(one, ScoreEvent)}
    final = {number: one.calibration for number, one in enumerate(whole.result.candidates[1:3], 1)}
    assert all(found and scored[number] == pytest.approx(found["nll"], rel=0.3) for number, found in final.items())


def test_a_race_killed_all_the_time_arrives(tmp_path: Path) -> None:
    """Killed at the ninth call of each attempt, with a journal of files: the same bits in the end."""
    known: dict[str, Path] = {}
    run = None
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        journal = FolderJournal(
            folder,
            key="k",
            known=dict(known),
            every_seconds=0,
            on_saved=lambda name, file, folder=folder: known.update({name: folder / file}),
        )
        with suppress(Killed):
            run = Run(journal, kill_at=9)
            break
    assert run is not None
    assert attempt > 2
    assert bits(run.result) == bits(undisturbed().result)
    assert {path.name.rsplit("-", 1)[0] for path in known.values()} == set(known)


def test_measured_rates_are_kept() -> None:
    """A race that finds its learning rates by itself goes on at the rates that it found."""
    line = [replace(HOT, learning_rate=None, epochs=2), replace(HEAD, learning_rate=None)]
    whole, journal = Run(None, candidates=line), MemoryJournal(every_seconds=0)
    assert set(whole.result.rates) == {"all", "head"}
    killed(journal, 11, candidates=line)  # the network has run its folds, the head has begun
    decided = journal.entries["decisions"]["content"]
    assert {"all": decided["edge, all"], "head": decided["edge, head"]} == whole.result.rates
    assert bits(Run(journal, candidates=line).result) == bits(whole.result)


def test_each_candidate_is_told_of_once() -> None:
    """Every end is reported once in all attempts, with the scores of the result; what is restored keeps its seconds."""
    journal = MemoryJournal(every_seconds=0)
    killed(journal, len(undisturbed().told) - 2)  # in the refit: all candidates have ended
    again = Run(journal)
    whole = undisturbed()
    assert [one.name for one in again.ended] == [one.name for one in whole.ended][3:]
    told = {one.name: one.calibration for one in whole.ended}
    assert told == {one.name: one.calibration for one in whole.result.candidates}, "a candidate has one NLL everywhere"
    restored = next(one for one in again.result.candidates if one.name == HOT.name)
    folds = [journal.entries[f"candidate-01-04-fold-{fold}"]["content"] for fold in (1, 2, 3)]
    assert restored.seconds >= sum(fold["outcome"]["seconds"] for fold in folds) > 0
    assert all(fold["network"] is None for fold in folds), "a fold's network has served its purpose"


def test_what_a_clock_decided_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy minute delays four of five candidates: all are judged as planned at once, later attempts plan nothing."""
    line = [Candidate("cross_entropy", rate, scope="all", epochs=2) for rate in (0.1, 0.2, 0.05, 0.02, 0.01)]
    options: dict[str, Any] = {"candidates": line, "budget_seconds": 200}
    unhurried, journal, steps = Run(None, **options), MemoryJournal(every_seconds=0), 1300 // 64
    assert sorted(one.status for one in unhurried.result.candidates[1:6]) == [*["eliminated"] * 2, *["finished"] * 3]
    monkeypatch.setattr(schedule, "_measured_step", lambda *_: 20.0 / steps / schedule._CAUTION)
    whole = Run(None, **options)
    assert [name for name, _ in whole.told[:9:3]] == [f"{line[0].name}, fold {fold} of 3" for fold in (1, 2, 3)]
    assert bits(whole.result) == bits(unhurried.result)
    killed(journal, 14, **options)  # the second plan runs
    monkeypatch.setattr(schedule, "_measured_step", lambda *_: pytest.fail("it was measured again"))
    monkeypatch.setattr("fedlas.race.cross_fitting.plan", lambda *_, **__: pytest.fail("it was planned again"))
    assert bits(Run(journal, **options).result) == bits(whole.result)


def test_who_ran_out_of_the_budget_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that was stopped for its time is not tried again by a later attempt."""

    def late(*_: object, **__: object) -> None:
        raise schedule.BudgetExceeded

    journal = MemoryJournal(every_seconds=0)
    with monkeypatch.context() as slow:
        slow.setattr(schedule.TimeBudget, "check", late)
        first = Run(journal, candidates=[HOT_PLUS, HOT])
    assert [one.status for one in first.result.candidates[1:]] == ["skipped", "skipped"]
    again = Run(journal, candidates=[HOT_PLUS, HOT])
    assert bits(again.result) == bits(first.result)
    assert not [step for step in again.told if step[1]]


def test_who_was_late_is_not_planned_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate of four epochs is late and runs for three; killed there, the race ends with the same bits."""
    epoch, check = 20 * schedule._CAUTION, schedule.TimeBudget.check

    def late(self: schedule.TimeBudget, share: float, seconds: float, *, planned: float, after: float) -> None:
        if planned > 3.5 * epoch:
            raise schedule.BudgetExceeded(share)
        check(self, share, seconds, planned=planned, after=after)

    monkeypatch.setattr(schedule.TimeBudget, "check", late)
    monkeypatch.setattr(schedule, "_measured_step", lambda *_: 20.0 / (1300 // 64))
    line = [Candidate("cross_entropy", 0.1, usual_epochs=4), HOT]
    whole, journal = Run(None, candidates=line), MemoryJournal(every_seconds=0)
    assert [one.status for one in whole.result.candidates[1:3]] == ["finished", "skipped"]
    assert whole.result.candidates[1].hyperparameters["epochs"] == 3
    assert any(f"would have let {HOT.name} run in full" in note for note in whole.result.notes)
    killed(journal, 6, candidates=line)  # in the first fold of three epochs
    assert "candidate-01-04-fold-1" in journal.entries
    monkeypatch.setattr(schedule, "_measured_step", lambda *_: pytest.fail("it was measured again"))
    again = Run(journal, candidates=line)
    assert bits(again.result) == bits(whole.result)


def test_the_time_already_spent_counts() -> None:
    """The clock of a later attempt begins where the last entry was written."""
    journal = MemoryJournal(every_seconds=0)
    killed(journal, 7)
    journal.entries["running"]["elapsed"] = 500.0
    assert 40 < schedule.TimeBudget(600, Record(journal, _settings(journal))).remaining() < 100
    assert schedule.TimeBudget(600, Record(MemoryJournal(every_seconds=0))).remaining() > 540


def _settings(journal: MemoryJournal) -> dict[str, Any]:
    """The settings that the race wrote into its record."""
    settings: dict[str, Any] = json.loads(journal.entries["decisions"]["race"])["settings"]
    return settings


def test_another_races_entries_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """An entry of another key, seed or budget is not used, and the log says so."""
    journal, few = MemoryJournal("one"), {"candidates": [HEAD]}
    killed(journal, 3, **few)
    for other, options in (("two", few), ("one", {**few, "seed": 1}), ("one", {**few, "budget_seconds": 300})):
        copied = MemoryJournal(other)
        copied.entries = dict(journal.entries)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again, whole = Run(copied, **options), Run(None, **options)
        assert bits(again.result) == bits(whole.result)
        assert again.told == whole.told
        assert "of another race and is ignored" in caplog.text


Damage = Callable[[State], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry["content"]["arrays"].pop("logits"),
        lambda entry: entry["content"].pop("arrays"),
        lambda entry: entry.pop("elapsed"),
        lambda entry: entry.clear(),
    ],
    ids=["no logits", "no arrays", "no envelope", "empty"],
)
def test_a_damaged_entry_is_trained_again(damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged entry is trained again, never an error, and the log says so."""
    journal = MemoryJournal(every_seconds=0)
    killed(journal, 15)  # in the third fold
    damage(journal.entries["candidate-01-04-fold-1"])
    again = Run(journal)
    assert bits(again.result) == bits(undisturbed().result)
    assert len([step for step in again.told if step[0] == f"{HOT.name}, fold 1 of 3" and step[1]]) == HOT.epochs
    assert "candidate-01-04-fold-1" in caplog.text


def test_a_refit_of_another_shape_is_trained_again(caplog: pytest.LogCaptureFixture) -> None:
    """Weights that do not fit the network are trained again, and the log says so."""
    journal = MemoryJournal(every_seconds=0)
    Run(journal)
    (name,) = [name for name in journal.entries if name.endswith("refit")]
    journal.entries[name]["content"]["network"]["out.weight"] = torch.zeros(2, 2)
    assert bits(Run(journal).result) == bits(undisturbed().result)
    assert name in caplog.text


def test_a_full_disk_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A journal that can write nothing leaves the race as it is, with lines in the log."""

    class Full(Journal):
        def write(self, name: str, entry: State) -> None:
            raise OSError(28, "No space left on device")

    assert bits(Run(Full()).result) == bits(undisturbed().result)
    assert "No space left on device" in caplog.text


def test_an_epoch_of_milliseconds_is_not_saved() -> None:
    """Where the last entry is younger than the limit a state waits for the next epoch; what is finished never does."""
    journal = MemoryJournal(every_seconds=1e9)
    Run(journal)
    folds = {f"candidate-0{place}-04-fold-{fold}" for place in (1, 2) for fold in (1, 2, 3)}
    assert set(journal.entries) - {"candidate-01-04-refit", "candidate-02-04-refit"} == {"decisions", *folds}
