"""Training runs: planned trainings carried out within the budget, watched, reported, and kept in the record."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from fedlas.contract.events import (
    EpochEnded,
    EpochEvent,
    FoldScored,
    ScoreEvent,
    TrainingBegun,
    TrainingEvent,
)
from fedlas.race.candidates import Candidate
from fedlas.race.context import Integers, ProgressReporter, RaceContext
from fedlas.race.schedule import TimeBudget
from fedlas.race.trainer import OUT_OF_TIME, Trainer, TrainingOutcome
from fedlas.training.loop import EpochResult

#: Within an epoch the budget is looked at so often, once so much of the training tells its speed.
_CHECK_S = 5.0
_TELLING_SHARE = 0.02


@dataclass(frozen=True)
class PlannedTraining:
    """One training of a race.

    Attributes:
        candidate: with its scope, epochs and learning rate.
        place: of the candidate in line, from 0; there are so many `candidates`.
        fold: of the calibration rows, from 0, that is left out of so many `folds`; None trains on all rows.
        work, after: seconds that it was planned to take, and that the candidate needs then, lest it ends in nothing.

    >>> one = PlannedTraining(Candidate("focal", 0.1, epochs=4, scope="all"), 2, 8, 0, 3, work=5.0, after=12.0)
    >>> one.name
    'candidate-03-04-fold-1'
    """

    candidate: Candidate
    place: int
    candidates: int
    fold: int | None
    folds: int | None
    work: float = 0.0
    after: float = 0.0

    @property
    def name(self) -> str:
        part = "refit" if self.fold is None else f"fold-{self.fold + 1}"
        kind = "head" if self.candidate.scope == "head" else "candidate"
        return f"{kind}-{self.place + 1:02}-{self.candidate.epochs or 1:02}-{part}"

    @property
    def shown(self) -> str:
        """The training, for people."""
        part = "on all rows" if self.fold is None else f"fold {self.fold + 1} of {self.folds}"
        return f"{self.candidate.name}, {part}"

    def _named(self) -> dict[str, Any]:
        fold = None if self.fold is None else self.fold + 1
        return {"candidate": self.candidate.name, "number": self.place + 1, "fold": fold, "folds": self.folds}

    def begun(self) -> TrainingEvent:
        """The event that it begins; a race that goes on repeats those of trainings that it had finished."""
        one = self.candidate
        about = {"method": one.method, "scope": one.scope, "candidates": self.candidates, "epochs": one.epochs or 1}
        return TrainingEvent(type="training", data=TrainingBegun(**self._named(), **about))

    def epoch_ended(self, epoch: EpochResult) -> EpochEvent:
        """The event that an epoch is over, and not yet saved: none is saved that was not reported."""
        about = {**asdict(epoch), "seconds": round(epoch.seconds, 3)}
        return EpochEvent(type="epoch", data=EpochEnded(**self._named(), **about))

    def scored(self, nll: float) -> ScoreEvent:
        """The event that (some of) the rows of its fold have this NLL, with a temperature that fits them."""
        return ScoreEvent(type="score", data=FoldScored(**self._named(), nll=nll))


class TrainingWatch:
    """Reports one training, and ends it where it would take too long."""

    def __init__(self, reporter: ProgressReporter, budget: TimeBudget, planned: PlannedTraining) -> None:
        self._reporter, self._budget, self._planned = reporter, budget, planned
        self._first: tuple[float, float] | None = None
        self._checked = time.perf_counter()

    def begins(self) -> None:
        self._reporter.observer.on_event(self._planned.begun())
        self._reporter.report(self._planned.shown, 0, self._planned.candidate.epochs or 1)

    def on_epoch(self, epoch: EpochResult) -> None:
        """An epoch is over. Raises BudgetExceeded."""
        planned = self._planned
        self._reporter.observer.on_event(planned.epoch_ended(epoch))
        self._reporter.report(planned.shown, epoch.epoch, planned.candidate.epochs or 1)
        self._budget.check(epoch.epoch / epoch.epochs, epoch.seconds, planned=planned.work, after=planned.after)

    def on_share(self, share: float) -> None:
        """A step is over. Raises BudgetExceeded."""
        self._reporter.progress.reached(share)
        now = time.perf_counter()
        if self._first is None:  # steps of an earlier attempt took no time in this one
            self._first = share, now
        if now - self._checked < _CHECK_S:
            return
        self._checked, (first, began) = now, self._first
        if share - first > _TELLING_SHARE:
            seconds = (now - began) / (share - first) * share
            self._budget.check(share, seconds, planned=self._planned.work, after=self._planned.after)


class TrainingRuns:
    """Carries out trainings one after the other; what the record knows is looked up."""

    def __init__(self, context: RaceContext, trainer: Trainer) -> None:
        self._context, self._trainer = context, trainer
        self._folds = cache(context.folds)
        #: How much longer the last training of a scope took than it was planned to.
        self._slower: dict[str, float] = {}

    def run(self, planned: PlannedTraining) -> TrainingOutcome:
        """The outcome in the record, else of training now, unless what is left of the budget is too little for it."""
        record, budget, reporter = self._context.record, self._context.budget, self._context.reporter
        fold, folds = planned.fold, planned.folds
        left_out = None if fold is None or folds is None else self._folds(folds)[fold]
        entry = self._trainer.entry(planned.candidate, left_out, planned.name)
        done = entry.outcome()
        seconds = self._slower.get(planned.candidate.scope, 1.0) * (planned.work + planned.after)
        if done is None and not record.decided(f"time for {planned.name}", lambda: budget.fits(seconds)):
            done = entry.keep(OUT_OF_TIME)
        if done is not None and done.status != "finished" and done.seconds <= 0:  # it has not even begun
            return done
        watch = TrainingWatch(reporter, budget, planned)
        watch.begins()
        if done is None:
            done = self._trainer.train(
                planned.candidate,
                watch.on_epoch,
                left_out=left_out,
                name=planned.name,
                on_share=watch.on_share,
                on_outcome=lambda outcome: self._scored(planned, left_out, outcome),
            )
        else:
            self._scored(planned, left_out, done)
        reporter.progress.ended(done.seconds)
        if (work := done.share * planned.work) > 0:
            self._slower[planned.candidate.scope] = done.seconds / work
        return done

    def _scored(self, planned: PlannedTraining, left_out: Integers | None, done: TrainingOutcome) -> None:
        if left_out is None or done.logits is None:
            return
        nll = self._context.selector.of_rows(left_out).nll_at_a_glance(done.logits)
        if math.isfinite(nll):
            self._context.reporter.observer.on_event(planned.scored(nll))
