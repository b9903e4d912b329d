"""Training runs: planned trainings carried out within the budget, watched, told of, and kept in the record."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache

from fedlas.race.candidates import Candidate
from fedlas.race.context import Integers, ProgressReporter, RaceContext
from fedlas.race.results import EpochEnded, FoldScored, TrainingBegun
from fedlas.race.schedule import TimeBudget
from fedlas.race.trainer import OUT_OF_TIME, Trainer, TrainingOutcome
from fedlas.training.loop import EpochResult

#: Within an epoch the budget is looked at so often, once so much of the training tells its speed.
_CHECK_S, _TELLING_SHARE = 5.0, 0.02


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
        return f"candidate-{self.place + 1:02}-{self.candidate.epochs or 1:02}-{part}"

    @property
    def begun(self) -> TrainingBegun:
        one, fold = self.candidate, None if self.fold is None else self.fold + 1
        return TrainingBegun(
            one.name, one.method, one.scope, self.place + 1, self.candidates, fold, self.folds, one.epochs or 1
        )


class TrainingWatch:
    def __init__(self, reporter: ProgressReporter, budget: TimeBudget, planned: PlannedTraining) -> None:
        self._reporter, self._budget, self._training = reporter, budget, planned.begun
        self._work, self._after = planned.work, planned.after
        self._first: tuple[float, float] | None = None
        self._checked = time.perf_counter()

    def begins(self) -> None:
        self._reporter.happened(self._training)
        self._reporter.report(self._training, 0)

    def on_epoch(self, epoch: EpochResult) -> None:
        """An epoch is over. Raises BudgetExceeded."""
        self._reporter.happened(EpochEnded(self._training, epoch))
        self._reporter.report(self._training, epoch.epoch)
        self._budget.check(epoch.epoch / epoch.epochs, epoch.seconds, planned=self._work, after=self._after)

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
            self._budget.check(share, (now - began) / (share - first) * share, planned=self._work, after=self._after)


class TrainingRuns:
    """Carries out trainings one after the other; what the record knows is looked up."""

    def __init__(self, context: RaceContext, trainer: Trainer) -> None:
        self._context, self._trainer = context, trainer
        self._folds = cache(context.folds)
        #: How much longer the last training took than it was planned to.
        self._slower = 1.0

    def run(self, planned: PlannedTraining) -> TrainingOutcome:
        """The outcome in the record, else of training now, unless what is left of the budget is too little for it."""
        record, budget, reporter = self._context.record, self._context.budget, self._context.reporter
        fold, folds = planned.fold, planned.folds
        left_out = None if fold is None or folds is None else self._folds(folds)[fold]
        entry = self._trainer.entry(planned.candidate, left_out, planned.name)
        done = entry.outcome()
        seconds = self._slower * (planned.work + planned.after)
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
        if done.status == "finished" and planned.work > 0:
            self._slower = done.seconds / planned.work
        return done

    def _scored(self, planned: PlannedTraining, left_out: Integers | None, done: TrainingOutcome) -> None:
        if left_out is None or done.logits is None:
            return
        nll = self._context.selector.of_rows(left_out).nll_at_a_glance(done.logits)
        if math.isfinite(nll):
            self._context.reporter.happened(FoldScored(planned.begun, nll))
