"""Successive halving: all candidates run the first folds, and the best of them run on through the others.

Those of a later plan run the same folds, and the others only if they are among the best of all that ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from fedlas.race.candidates import Candidate
from fedlas.race.context import Integers, RaceContext
from fedlas.race.results import CandidateResult, Doubles, FedLASDiagnostics, Floats
from fedlas.race.schedule import KEPT, PlannedCandidate, WrittenPlan
from fedlas.race.scoring import CrossFitted
from fedlas.race.selection import CalibratorSelector
from fedlas.race.trainer import TrainingOutcome
from fedlas.race.training_runs import PlannedTraining, TrainingRuns


@dataclass(frozen=True)
class Trial:
    """A candidate that ran all folds: its out-of-fold logits (N, K) and their calibrator."""

    planned: PlannedCandidate
    candidate: Candidate
    result: CandidateResult
    calibrated: CrossFitted
    logits: Floats
    diagnostics: FedLASDiagnostics | None = None


@dataclass
class FoldCourse:
    """One candidate on its way through the folds."""

    planned: PlannedCandidate
    candidate: Candidate
    folds: Sequence[Integers] = ()
    outcomes: dict[int, TrainingOutcome] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"candidate-{self.planned.place + 1:02}"

    def first(self, folds: int) -> Self:
        """The course as it was after so many folds."""
        return replace(self, outcomes={fold: self.outcomes[fold] for fold in range(folds)})

    @property
    def runs_well(self) -> bool:
        """True where every fold that was run has logits."""
        return all(outcome.logits is not None for outcome in self.outcomes.values())

    @property
    def seconds(self) -> float:
        return sum(outcome.seconds for outcome in self.outcomes.values())

    @property
    def fold_work(self) -> float:
        return self.planned.fold_seconds(self.candidate.epochs or 1, len(self.folds))

    @property
    def refit_work(self) -> float:
        return self.planned.refit_seconds(self.candidate.epochs or 1)

    def training(self, fold: int | None, candidates: int) -> PlannedTraining:
        """The training without this fold, or on all rows, of one of so many candidates."""
        one, place = self.candidate, self.planned.place
        if fold is None:
            return PlannedTraining(one, place, candidates, None, None, self.refit_work)
        after = (len(self.folds) - fold - 1) * self.fold_work + self.refit_work
        return PlannedTraining(one, place, candidates, fold, len(self.folds), self.fold_work, after)

    @property
    def rows(self) -> Integers:
        """The calibration rows of the folds that were run, as `logits` has them."""
        return np.concatenate([self.folds[fold] for fold in sorted(self.outcomes)])

    @property
    def logits(self) -> Floats:
        parts = [self.outcomes[fold].logits for fold in sorted(self.outcomes)]
        return np.concatenate([part for part in parts if part is not None])

    def calibrated(self, selector: CalibratorSelector) -> CrossFitted:
        """Logits of the folds that were run, with a cross-fitted temperature; in the order of `rows`."""
        return selector.of_rows(self.rows).fit_simplest(self.logits)

    def row_nll(self, selector: CalibratorSelector) -> Doubles:
        return selector.of_rows(self.rows).row_nll(self.calibrated(selector).held_out)

    def nll(self, selector: CalibratorSelector) -> float:
        return selector.of_rows(self.rows).nll(self.calibrated(selector).held_out)

    @property
    def diagnostics(self) -> FedLASDiagnostics | None:
        """Diagnostics of FedLAS on every fold, in the order of the calibration rows; None where it is another loss."""
        found = [
            vars(self.outcomes[fold].diagnostics) for fold in sorted(self.outcomes) if self.outcomes[fold].diagnostics
        ]
        if not found:
            return None
        order = np.argsort(self.rows)
        return FedLASDiagnostics(**{name: np.concatenate([part[name] for part in found])[order] for name in found[0]})


class SuccessiveHalving:
    """Runs candidates through their folds and judges them.

    Args:
        on_ended: called with each candidate that has no training to come but a refit.
    """

    def __init__(
        self, context: RaceContext, runs: TrainingRuns, on_ended: Callable[[FoldCourse, CandidateResult], None]
    ) -> None:
        self._context, self._runs, self._ended = context, runs, on_ended
        self._selector = context.selector
        self._courses: list[FoldCourse] = []
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
        first, folds = taken["first_folds"], taken["folds"]
        self._courses += courses
        expect = self._context.reporter.progress.expect
        expect(len(courses) * first + min(KEPT, len(courses)) * (folds - first) + refits)
        self._run_folds(courses, range(first))
        best = self._compared()[:KEPT]
        if first == folds:
            return
        running = [one for one in courses if one.runs_well]
        kept = [one for one in best if one in running]
        for course in (one for one in running if one not in kept):
            scores = self._selector.of_rows(course.rows).scored(_finished(course), course.calibrated(self._selector))
            why = f"after {first} of {folds} folds it was not among the best {len(best)}"
            self._ended(course, replace(scores, status="eliminated", reason=why))
        expect(len(kept) * (folds - first) + refits)
        self._run_folds(kept, range(first, folds))

    def _run_folds(self, courses: Sequence[FoldCourse], folds: range) -> None:
        """Train each without these folds, until one does not end well; after the last fold the candidate ends."""
        for course in courses:
            for fold in folds:
                done = self._runs.run(course.training(fold, self._context.reporter.candidates))
                course.outcomes[fold] = done
                if done.logits is None:
                    self._ended(course, unscored(course.candidate, done.status, done.reason, seconds=course.seconds))
                    break
            else:
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
    settings = candidate.hyperparameters()
    return CandidateResult(candidate.name, candidate.method, settings, candidate.scope, status, reason, seconds)
