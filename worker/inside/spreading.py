"""The spread of a race over workers, inside the sandbox: trainings are offered to the supervisor, who says what to do.

A training walks as a `TrainingOrder`, of which this module alone knows that it is a `PlannedTraining` of the library.
"""

from __future__ import annotations

from dataclasses import asdict

from fedlas.race.candidates import Candidate
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.rungs import Rung
from worker.documents import ChildEvent, GoOnReply, JobOrder, OfferedTraining, TrainingOrder, TrainReply
from worker.inside.job_events import JobEvents
from worker.inside.reproducibility import JobJournal
from worker.inside.work_function import Ask, Emit


class SupervisedSpread:
    """What the library asks of `fedlas.race.rungs.Spread`, by lines to and from the supervisor."""

    def __init__(self, from_seconds: float, journal: JobJournal, emit: Emit, ask: Ask, tell: JobEvents) -> None:
        self.from_seconds = from_seconds
        self._journal, self._emit, self._ask, self._tell = journal, emit, ask, tell

    def offer(self, rung: Rung) -> None:
        """Offer each training in a line of its own."""
        for planned in rung.trainings:
            self._emit(ChildEvent(offer=OfferedTraining(name=planned.name, order=training_order(planned, rung))))

    def next(self) -> PlannedTraining | None:
        """Ask; what others have left lies in the journal's folder by then."""
        self._tell.shares = False
        reply = self._ask()
        if isinstance(reply, TrainReply):
            self._journal.given(reply.entries)
            self._tell.shares = True
            return planned_training(reply.order)
        if isinstance(reply, GoOnReply):
            self._journal.given(reply.entries)
            return None
        raise ValueError(f"a race that waits for its trainings cannot {reply.do}")


def spread_of(order: JobOrder, journal: JobJournal, emit: Emit, ask: Ask, tell: JobEvents) -> SupervisedSpread | None:
    """The spread that a job's order allows."""
    if order.spread_seconds is None:
        return None
    return SupervisedSpread(order.spread_seconds, journal, emit, ask, tell)


def training_order(planned: PlannedTraining, rung: Rung) -> TrainingOrder:
    """A training of a rung for whoever carries it out."""
    whole = sum(one.work for one in rung.trainings)
    share = planned.work / whole if whole > 0 else 1 / len(rung.trainings)
    return TrainingOrder.model_validate(
        {
            "candidate": asdict(planned.candidate),
            "number": planned.place + 1,
            "candidates": planned.candidates,
            "fold": None if planned.fold is None else planned.fold + 1,
            "folds": planned.folds,
            "work_seconds": planned.work,
            "after_seconds": planned.after,
            "trained_share": planned.trained_share,
            "spent_seconds": rung.spent_seconds,
            "kept_seconds": rung.kept_seconds,
            "job_share": share * (rung.end - rung.begin),
        }
    )


def planned_training(order: TrainingOrder) -> PlannedTraining:
    """The training that was ordered."""
    return PlannedTraining(
        Candidate(**order.candidate.model_dump()),
        order.number - 1,
        order.candidates,
        None if order.fold is None else order.fold - 1,
        order.folds,
        order.work_seconds,
        order.after_seconds,
        order.trained_share,
    )
