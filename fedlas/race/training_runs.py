"""Training runs: planned trainings carried out within the budget, watched, told of, and kept in the record."""

from __future__ import annotations

import math
from functools import cache

from fedlas.progress import TRAINING
from fedlas.race.candidate_training import Trainer
from fedlas.race.context import Integers, RaceContext
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.resume import OUT_OF_TIME, TrainingEntry, TrainingOutcome
from fedlas.race.training_events import FoldScored
from fedlas.race.training_watch import TrainingWatch


class TrainingRuns:
    """Carries out trainings one after the other; what the record knows is looked up."""

    def __init__(self, context: RaceContext, trainer: Trainer) -> None:
        self._context, self._trainer = context, trainer
        self._folds = cache(context.folds)
        #: How much longer the last training took than it was planned to.
        self._slower = 1.0

    def is_known(self, planned: PlannedTraining) -> bool:
        """Whether the record has an outcome of this training."""
        entry = self._entry(planned)
        return self._context.record.entry(entry.name, entry.settings) is not None

    def run(self, planned: PlannedTraining, *, told: bool = False) -> TrainingOutcome:
        """The outcome in the record, else of training now, unless what is left of the budget is too little for it.

        Args:
            told: whoever has trained what is in the record has told of it.
        """
        record, budget, progress = self._context.record, self._context.budget, self._context.reporter.progress
        entry = self._entry(planned)
        done = entry.outcome()
        seconds = self._slower * (planned.work + planned.after)
        if done is None and not record.decided(f"time for {planned.name}", lambda: budget.fits(seconds)):
            done = entry.keep(OUT_OF_TIME)
        if done is not None and not done.ran:
            progress.drop(planned.name)
            return done
        progress.expect(planned.name, planned.work, kind=TRAINING)
        progress.begin(planned.name)
        if done is None or not told:
            done = self._told(planned, done)
        progress.end(done.seconds, whole=done.status == "finished")
        if done.status == "finished" and planned.work > 0:
            self._slower = done.seconds / planned.work
        return done

    def _told(self, planned: PlannedTraining, known: TrainingOutcome | None) -> TrainingOutcome:
        """Tell of a training that is known, or train."""
        watch = TrainingWatch(self._context.reporter, self._context.budget, planned)
        watch.begins()
        if known is not None:
            self._scored(planned, known)
            return known
        return self._trainer.train(
            planned.candidate,
            watch.on_epoch,
            left_out=self._left_out(planned),
            name=planned.name,
            on_share=watch.on_share,
            on_outcome=lambda done: self._scored(planned, done),
        )

    def _scored(self, planned: PlannedTraining, done: TrainingOutcome) -> None:
        """Tell the score of a fold."""
        left_out = self._left_out(planned)
        if left_out is None or done.logits is None:
            return
        nll = self._context.selector.of_rows(left_out).nll_at_a_glance(done.logits)
        if math.isfinite(nll):
            self._context.reporter.happened(FoldScored(planned.begun, nll))

    def _entry(self, planned: PlannedTraining) -> TrainingEntry:
        return self._trainer.entry(planned.candidate, self._left_out(planned), planned.name)

    def _left_out(self, planned: PlannedTraining) -> Integers | None:
        """Indices of the calibration rows that it does not train on."""
        if planned.fold is None or planned.folds is None:
            return None
        return self._folds(planned.folds)[planned.fold]
