"""Rungs of a race: trainings that may run beside each other, in this process alone or spread over several.

Whoever trains, the outcomes lie in the record under the names of their trainings and are judged in the same order, so
that a race ends with the same bits. What a rung's helpers have left that does not fit is trained again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlas.race.context import RaceContext
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.resume import OUT_OF_TIME, TrainingOutcome
from fedlas.race.training_runs import TrainingRuns

_CLOCK = (
    "A clock decided that these trainings, of a race spread over several processes, were left without scores, and it "
    "may decide otherwise another time: {names}"
)


@dataclass(frozen=True)
class Rung:
    """The trainings of a rung that have no outcome yet.

    Attributes:
        spent_seconds, kept_seconds: of the race's budget, by now and for what comes after all trainings.
        begin, end: the shares of the whole job that are done now, and when the rung is over.
    """

    trainings: Sequence[PlannedTraining]
    spent_seconds: float
    kept_seconds: float
    begin: float
    end: float


class Spread(Protocol):
    """The processes that train beside this one, as the caller reaches them; what it raises stops the race."""

    @property
    def from_seconds(self) -> float:
        """Planned seconds of a rung from which on it is worth spreading."""

    def offer(self, rung: Rung) -> None:
        """A rung begins: whoever wants to may train."""

    def next(self) -> PlannedTraining | None:
        """The training that this process is to carry out; None once all have ended, and the journal reads the others'.

        It may be one that an earlier attempt has offered.
        """


class Rungs:
    """Carries out the rungs of a race."""

    def __init__(self, context: RaceContext, runs: TrainingRuns, spread: Spread | None = None) -> None:
        self._context, self._runs, self._others = context, runs, spread
        self._here: dict[str, TrainingOutcome] = {}
        self._elsewhere: set[str] = set()
        self._spread: set[str] = set()
        self._cut: list[str] = []

    def begin(self, trainings: Sequence[PlannedTraining]) -> None:
        """Spread a rung where that pays; else its trainings are carried out as their outcomes are asked for."""
        work = sum(one.work for one in trainings)
        if self._others is None or len(trainings) < 2 or work < self._others.from_seconds:
            return
        self._spread |= {one.name for one in trainings}
        wanted = {one.name: one for one in trainings if not self._runs.is_known(one)}
        if not wanted:
            return
        progress, left = self._context.reporter.progress, sum(one.work for one in wanted.values())
        begin, end = progress.position().fraction, progress.fraction_after(left)
        spent, kept = self._context.record.elapsed(), self._context.budget.reserve
        self._others.offer(Rung(list(wanted.values()), spent, kept, begin, end))
        while (given := self._others.next()) is not None:
            planned = wanted.get(given.name, given)
            self._here[given.name] = self._runs.run(planned)
        self._here = {name: done for name, done in self._here.items() if name in wanted}
        self._elsewhere |= wanted.keys() - self._here.keys()
        progress.stands_at(end)

    def outcome(self, planned: PlannedTraining) -> TrainingOutcome:
        """Of a training whose rung has begun."""
        done = self._here.pop(planned.name, None)
        if done is None:
            done = self._runs.run(planned, told=planned.name in self._elsewhere)
        if planned.name in self._spread and done.reason == OUT_OF_TIME.reason:
            self._cut.append(planned.begun.shown)
        return done

    def notes(self) -> list[str]:
        """A sentence where a clock has ended trainings that were spread."""
        return [_CLOCK.format(names="; ".join(self._cut))] if self._cut else []
