"""Successive halving: all candidates run the first folds, and the best of them run on through the others.

Those of a later plan run the same folds, and the others only if they are among the best of all that ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedlas.progress import TRAINING
from fedlas.race.candidates import Candidate
from fedlas.race.context import Integers, RaceContext
from fedlas.race.fold_course import FoldCourse, Trial
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.results import CandidateResult, Doubles
from fedlas.race.rungs import Rungs
from fedlas.race.schedule import KEPT, WrittenPlan


class SuccessiveHalving:
    """Runs candidates through their folds, rung by rung, and judges them.

    Args:
        on_ended: called with each candidate that has no training to come but a refit.
    """

    def __init__(
        self, context: RaceContext, rungs: Rungs, on_ended: Callable[[FoldCourse, CandidateResult], None]
    ) -> None:
        self._context, self._rungs, self._ended = context, rungs, on_ended
        self._steps, self._selector = context.reporter.progress, context.selector
        self._courses: list[FoldCourse] = []
        #: Those that ran all folds.
        self.trials: list[Trial] = []
        #: Row NLL (M,) of the best candidate of each method on these calibration rows, with a temperature.
        self.by_method: dict[str, Doubles] = {}
        self.compared_rows: Integers = np.arange(0)

    @property
    def pace(self) -> float | None:
        """How much longer the trainings so far took than they were planned to take; None before the first."""
        well = self._well
        planned = sum(one.fold_work * len(one.outcomes) for one in well)
        return sum(one.seconds for one in well) / planned if planned > 0 else None

    @property
    def _well(self) -> list[FoldCourse]:
        return [one for one in self._courses if one.runs_well]

    def run(self, taken: WrittenPlan, courses: Sequence[FoldCourse], *, refits: int) -> None:
        """Run a plan."""
        first, folds = taken["first_folds"], taken["folds"]
        self._courses += courses
        self._expect(courses, first, folds, refits)
        self._run_rung(courses, range(first))
        best = self._compared()[:KEPT]
        if first == folds:
            return
        running = [one for one in courses if one.runs_well]
        kept = [one for one in best if one in running]
        for course in (one for one in running if one not in kept):
            scores = self._selector.of_rows(course.rows).scored(_finished(course), course.calibrated(self._selector))
            why = f"after {first} of {folds} folds it was not among the best {len(best)}"
            self._ended(course, replace(scores, status="eliminated", reason=why))
        later = range(first, folds)
        self._steps.drop(*(one.name for one in self._trainings(running, later)))
        for one in self._trainings(kept, later):
            self._steps.expect(one.name, one.work, kind=TRAINING)
        self._run_rung(kept, later)

    def _expect(self, courses: Sequence[FoldCourse], first: int, folds: int, refits: int) -> None:
        """Expect the trainings to come; the dearest may be those that run all folds."""
        dearest = sorted(courses, key=lambda one: one.fold_work, reverse=True)[:KEPT]
        for one in (*self._trainings(courses, range(first)), *self._trainings(dearest, range(first, folds))):
            self._steps.expect(one.name, one.work, kind=TRAINING)
        works = sorted((one.refit_work for one in self._courses), reverse=True)
        for number, work in enumerate(works[:refits], 1):
            self._steps.expect(f"refit {number}", work, kind=TRAINING)

    def _trainings(self, courses: Sequence[FoldCourse], folds: range) -> list[PlannedTraining]:
        return [course.training(fold, self._context.reporter.candidates) for course in courses for fold in folds]

    def _run_rung(self, courses: Sequence[FoldCourse], folds: range) -> None:
        self._rungs.begin(self._trainings(courses, folds))
        for course in courses:
            self._run_folds(course, folds)

    def _run_folds(self, course: FoldCourse, folds: range) -> None:
        """Train without each of these folds, until one does not end well; after the last one the candidate ends."""
        for fold, training in zip(folds, self._trainings([course], folds), strict=True):
            done = self._rungs.outcome(training)
            course.outcomes[fold] = done
            if done.logits is None:
                to_come = self._trainings([course], range(fold + 1, len(course.folds)))
                self._steps.drop(*(one.name for one in to_come))
                self._ended(course, unscored(course.candidate, done.status, done.reason, seconds=course.seconds))
                return
        if folds.stop == len(course.folds):
            self._finish(course)

    def _compared(self) -> list[FoldCourse]:
        """All that run well, by their NLL on the folds that all of them have run; notes the best of each method."""
        common = min((len(one.outcomes) for one in self._well), default=0)
        line = sorted(((one.first(common), one) for one in self._well), key=lambda pair: pair[0].nll(self._selector))
        self.by_method.clear()
        for course, _ in line:
            self.compared_rows = course.rows
            self.by_method.setdefault(course.candidate.method, course.row_nll(self._selector))
        return [one for _, one in line]

    def _finish(self, course: FoldCourse) -> None:
        """Put the folds together: every calibration row has logits of a network that has not seen it."""
        logits = course.logits[np.argsort(course.rows)]
        calibrated = self._selector.fit_simplest(logits)
        result = self._selector.scored(_finished(course), calibrated)
        self.trials.append(Trial(course.planned, course.candidate, result, calibrated, logits, course.diagnostics))
        self._ended(course, result)


def _finished(course: FoldCourse) -> CandidateResult:
    return unscored(course.candidate, "finished", "", seconds=course.seconds)


def unscored(candidate: Candidate, status: str, reason: str, *, seconds: float = 0.0) -> CandidateResult:
    """The result of a candidate without its scores."""
    settings = candidate.hyperparameters()
    return CandidateResult(candidate.name, candidate.method, settings, candidate.scope, status, reason, seconds)
