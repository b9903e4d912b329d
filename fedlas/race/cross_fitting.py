"""Cross-fitting: candidates are trained on fresh rows and judged by rows that their network has not seen.

A restart on the rows that a network knows by heart is worse than a temperature; the calibration rows are what teaches
it. So they are cut into folds: the network of a fold trains on the train rows and the other folds, and its logits on
that fold are out-of-fold. These alone choose and calibrate (measured out-of-fold minus test NLL, less the same for a
temperature: .002 and less). One more network, the refit, is trained on all rows; it is what may be served.

Successive halving: all candidates run the first folds, and the best of them run on through the others.

Those of a later plan run the same folds, and the others only if they are among the best of all that ran. One that runs
out of time ends its plan: those after it, and a shorter version of it, are planned again with the speed that it had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from fedlas.classifier import Classifier
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.candidates import Candidate
from fedlas.race.context import Integers, RaceContext, TrainingRows
from fedlas.race.results import FEW_ROWS, CandidateResult, CrossFitted, Doubles, FedLASDiagnostics, Finalist, Floats
from fedlas.race.schedule import KEPT, MIN_EPOCHS, Plan, PlannedCandidate, WrittenPlan, plan
from fedlas.race.trainer import OUT_OF_TIME, Trainer, TrainingOutcome, train_config
from fedlas.race.training_runs import PlannedTraining, TrainingRuns
from fedlas.training.fit import STEPS
from fedlas.training.loop import steps_per_epoch


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

    def first(self, folds: int) -> Self:
        """The course as it was after so many folds."""
        return replace(self, outcomes={fold: self.outcomes[fold] for fold in range(folds)})

    @property
    def runs_well(self) -> bool:
        """True if folds were run, and every one has logits."""
        return bool(self.outcomes) and all(outcome.logits is not None for outcome in self.outcomes.values())

    @property
    def is_late(self) -> bool:
        """True if a fold ran out of the budget."""
        return any(outcome.status == OUT_OF_TIME.status for outcome in self.outcomes.values())

    def again(self) -> list[PlannedCandidate]:
        """The candidate to plan again: as it was if it did not begin, shorter if it was late."""
        epochs = self.planned.epochs if not self.outcomes else (self.candidate.epochs or 1) - 1
        shortens = self.is_late and self.planned.may_shorten and epochs >= MIN_EPOCHS
        return [replace(self.planned, epochs=epochs)] if shortens or not self.outcomes else []

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
        parts = [
            vars(self.outcomes[fold].diagnostics) for fold in sorted(self.outcomes) if self.outcomes[fold].diagnostics
        ]
        if not parts:
            return None
        order = np.argsort(self.rows)
        return FedLASDiagnostics(**{name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]})


class SuccessiveHalving:
    """Runs candidates through their folds and judges them.

    Args:
        on_ended: called with the place of each candidate that leaves the race; those that run all folds are `trials`.
    """

    def __init__(
        self, context: RaceContext, runs: TrainingRuns, on_ended: Callable[[int, CandidateResult], None]
    ) -> None:
        self._context, self._runs, self._ended = context, runs, on_ended
        self._selector = context.selector
        self.courses: list[FoldCourse] = []
        self.trials: list[Trial] = []
        #: Row NLL (M,) of the best candidate of each method on these calibration rows, with a temperature.
        self.by_method: dict[str, Doubles] = {}
        self.compared_rows: Integers = np.arange(0)

    def pace(self, scope: str) -> float:
        """How much longer trainings take than planned, by those so far and what was done of one that was too slow."""
        ran = [(one, done) for one in self.courses if one.candidate.scope == scope for done in one.outcomes.values()]
        planned = sum(one.fold_work * done.share for one, done in ran)
        return sum(done.seconds for _, done in ran if done.share) / planned if planned > 0 else 1.0

    def run(self, taken: WrittenPlan, courses: Sequence[FoldCourse], *, refits: int) -> None:
        """Run the courses of a plan; if one is late the next ones do not begin."""
        first, folds = taken["first_folds"], taken["folds"]
        expect = self._context.reporter.progress.expect
        expect(len(courses) * first + min(KEPT, len(courses)) * (folds - first) + refits)
        for course in courses:
            self.courses.append(course)
            self._run_folds(course, range(first))
            if course.is_late:
                break
        best = self._compared()[:KEPT]
        if first == folds:
            return
        running = [one for one in courses if one.runs_well]
        kept = [one for one in best if one in running]
        for course in (one for one in running if one not in kept):
            scores = self._selector.of_rows(course.rows).scored(_finished(course), course.calibrated(self._selector))
            why = f"after {first} of {folds} folds it was not among the best {len(best)}"
            self._ended(course.planned.place, replace(scores, status="eliminated", reason=why))
        expect(len(kept) * (folds - first) + refits)
        for course in kept:
            self._run_folds(course, range(first, folds))

    def _run_folds(self, course: FoldCourse, folds: range) -> None:
        """Train without these folds, until one does not end well; after the last fold the candidate is a trial."""
        for fold in folds:
            done = self._runs.run(course.training(fold, self._context.reporter.candidates))
            course.outcomes[fold] = done
            if done.logits is None:
                break
        if not course.runs_well and not course.is_late:
            self._ended(
                course.planned.place, unscored(course.candidate, done.status, done.reason, seconds=course.seconds)
            )
        elif course.runs_well and folds.stop == len(course.folds):
            self._finish(course)

    def _compared(self) -> list[FoldCourse]:
        """All that run well, by their NLL on the folds that all of them have run; notes the best of each method."""
        well = [one for one in self.courses if one.runs_well]
        common = min((len(one.outcomes) for one in well), default=0)
        line = sorted(((one.first(common), one) for one in well), key=lambda pair: pair[0].nll(self._selector))
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


def _finished(course: FoldCourse) -> CandidateResult:
    return unscored(course.candidate, "finished", "", seconds=course.seconds)


def unscored(candidate: Candidate, status: str, reason: str, *, seconds: float = 0.0) -> CandidateResult:
    settings = candidate.hyperparameters()
    return CandidateResult(candidate.name, candidate.method, settings, candidate.scope, status, reason, seconds)


#: A step takes as long at any rate.
_ANY_RATE = 1e-3
#: BatchNorm has no variance of a single row.
_MIN_ROWS_OF_CLASS = 2
_NO_MEMORY = "it does not fit into the device's memory"
_NO_TIME = "its measured time does not fit what is left of the budget"
# Whole minutes, by the record: measured seconds would be others the next time.
_NO_TIME_FOR = (
    "The budget left no time for {names}: {minutes} more minute{s} would have let {first} run in full{instead}"
)
_INSTEAD = "; no whole network was trained to its end, and at most its head could be trained instead"
_NOTHING_IN_TIME = (
    "Nothing was trained: the budget left no time for it. A dry run says how many minutes the whole job would take"
)
_FEW_FOLDS = (
    "The budget left time for {folds} folds: their networks saw fewer of the fresh rows than the one that is served, "
    "which is therefore likely to be better than its out-of-fold scores"
)


class TrainingCosts:
    """The costs of sized candidates; each kind of step is measured once in all attempts."""

    def __init__(self, context: RaceContext, trainer: Trainer) -> None:
        self._context, self._rows, self._trainer = context, trainer.rows, trainer

    def planned(self, place: int, candidate: Candidate, *, may_shorten: bool) -> PlannedCandidate:
        scored, steps = len(self._rows.calibration), steps_per_epoch(len(self._rows), candidate.batch_size)
        return PlannedCandidate(
            place,
            candidate.epochs or 1,
            steps * self._step_seconds(candidate),
            scored / len(self._rows),
            self._context.budget.prediction_seconds(0 if candidate.scope == "head" else scored),
            may_shorten,
        )

    def range_test(self, candidates: Iterable[Candidate]) -> float:
        """Seconds to find the learning rates of these, if none is known; the edge of a head costs nothing."""
        known = {"head", *self._trainer.edges}
        wanting = [one for one in candidates if one.learning_rate is None and one.scope not in known]
        return STEPS * max(map(self._step_seconds, wanting), default=0.0)

    def _step_seconds(self, candidate: Candidate) -> float:
        return self._context.budget.step_seconds(
            self._context.classifier,
            self._rows.inputs,
            self._rows.targets,
            train_config(replace(candidate, learning_rate=_ANY_RATE), self._context.seed),
            features=self._trainer.features if candidate.scope == "head" else None,
            device=self._context.device,
        )


def training_obstacle(context: RaceContext) -> str:
    """Obstacle to any training at all, or an empty text."""
    if context.training is None or len(context.training) == 0:
        return "there are no rows to train on"
    if not any(parameter.requires_grad for parameter in context.classifier.parameters()):
        return "the model has no weights that can be trained"
    if len(context.calibration[1]) < FEW_ROWS:
        return (
            f"{len(context.calibration[1])} calibration rows are too few to teach a network and to tell what it has "
            f"learned: at least {FEW_ROWS} are needed"
        )
    if not context.selector.has_groups_to_leave_out:
        return "all calibration rows are of one group, so that none can be left out while the others teach"
    if len(context.training) - max(map(len, context.folds())) < _MIN_ROWS_OF_CLASS:
        return "where a fold of the calibration rows is left out too few rows are left to learn from"
    if context.budget.prediction_seconds(len(context.training)) > context.budget.remaining():
        return "one pass over the training rows does not fit the budget"
    return ""


def head_obstacle(classifier: Classifier, trainer: Trainer) -> str:
    if not classifier.head_parameters():
        return "the network has no head of its own to train"
    if not trainer.keeps_features:
        return "the features of so many rows do not fit into memory, so that no head was trained alone"
    return ""


class CrossFitting:
    """Trains candidates on folds within the budget, and refits the best."""

    def __init__(self, context: RaceContext) -> None:
        self.context = context
        #: Notes on the trainings that a reader of the report must know.
        self.notes: list[str] = []
        self._results: dict[int, CandidateResult] = {}
        self._too_large: set[int] = set()
        self._obstacle = context.record.decided("obstacle", lambda: training_obstacle(context))
        # Where there is nothing to train on, the obstacle says so and the trainer is not asked.
        inputs, targets = context.calibration
        rows = context.training or TrainingRows(inputs, targets, np.arange(len(targets)))
        self._trainer = Trainer(context, rows)
        self._runs = TrainingRuns(context, self._trainer)
        self.halving = SuccessiveHalving(context, self._runs, self._note)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate that each scope stands, as far as it was measured."""
        return self._trainer.edges

    @property
    def results(self) -> list[CandidateResult]:
        """The results of all candidates in their order."""
        return [result for _, result in sorted(self._results.items())]

    def finish(self, trials: Sequence[Trial]) -> None:
        """Report the candidates that ran all folds, with their last calibrator: events say what the report says."""
        for trial in sorted(trials, key=lambda one: one.planned.place):
            self._note(trial.planned.place, trial.result)

    def out_of_time(self) -> list[str]:
        """A sentence where the budget is the reason why nothing was trained."""
        reasons = {result.reason for result in self._results.values()}
        return [_NOTHING_IN_TIME] if not self.halving.trials and reasons & {_NO_TIME, OUT_OF_TIME.reason} else []

    def run(self, candidates: Sequence[Candidate], *, refits: int) -> None:
        """Run what fits on its folds; time is kept for so many refits."""
        self.context.reporter.candidates = max(1, len(candidates))
        line = list(enumerate(candidates))
        if self._obstacle:
            self._skip(line, self._obstacle)
            self.notes += [f"Nothing was trained: {self._obstacle}."] if line else []
            return
        heads = [(i, c) for i, c in line if c.scope == "head"]
        whole = [(i, c) for i, c in line if c.scope != "head"]
        left_over = self._run_scope("all", whole, refits)
        # If a whole network was trained to its end, a head alone adds nothing. Heads need features of all rows.
        budget = self.context.budget
        alone = not self.halving.trials and self.context.record.decided(
            "time for heads", lambda: budget.fits(budget.prediction_seconds(len(self._trainer.rows)))
        )
        instead = [(i, c) for i, c in left_over if c.scope == "auto" and alone]
        self._skip([one for one in left_over if one not in instead], _NO_TIME)
        heads += instead
        self._skip(self._run_scope("head", sorted(heads, key=lambda one: one[0]), refits), _NO_TIME)

    def _run_scope(self, scope: str, line: Sequence[tuple[int, Candidate]], refits: int) -> list[tuple[int, Candidate]]:
        """Run the candidates of one scope, planned again after each plan; returns the candidates that did not end."""
        if scope == "head" and (obstacle := head_obstacle(self.context.classifier, self._trainer)):
            self._skip(line, obstacle)
            return []
        sized = {place: self._trainer.sized(candidate, scope) for place, candidate in line}
        num_folds, costs = len(self.context.folds()), TrainingCosts(self.context, self._trainer)
        planned = {place: costs.planned(place, sized[place], may_shorten=one.epochs is None) for place, one in line}
        self._too_large |= {place for place, one in planned.items() if math.isinf(one.epoch_seconds)}
        waiting, ran = dict(planned), list[tuple[PlannedCandidate, int]]()

        def planned_within(seconds: float, *these: PlannedCandidate) -> Plan:
            return plan(these, seconds, num_folds=num_folds, refits=refits, ran=ran)

        def decide() -> WrittenPlan:
            seconds = self.context.budget.for_trainings() / self.halving.pace(scope) - costs.range_test(sized.values())
            return planned_within(seconds, *(waiting[place] for place in sorted(waiting))).written()

        while waiting:
            taken = self.context.record.decided(f"plan, {scope}, after {len(self.halving.courses)}", decide)
            if not taken["epochs"]:
                break
            num_folds = taken["folds"]
            folds = self.context.folds(num_folds)
            courses = [
                FoldCourse(waiting.pop(place), self._trainer.rated(replace(sized[place], epochs=epochs)), folds)
                for place, epochs in taken["epochs"]
            ]
            self.halving.run(taken, courses, refits=refits)
            ran += [(one.planned, one.candidate.epochs or 1) for one in courses if one.runs_well]
            waiting |= {one.place: one for course in courses for one in course.again()}
        if ran and num_folds < len(self.context.folds()):
            self.notes.append(_FEW_FOLDS.format(folds=num_folds))
        return self._left_over(scope, line, lambda place: planned_within(math.inf, planned[place]).seconds)

    def _left_over(
        self, scope: str, line: Sequence[tuple[int, Candidate]], needed: Callable[[int], float]
    ) -> list[tuple[int, Candidate]]:
        """Return the candidates that did not end; a note says how many minutes the first of them lacked."""
        ended = {*self._results, *(trial.planned.place for trial in self.halving.trials)}
        left_over = [(place, one) for place, one in line if place not in ended]
        names = {place: one.name for place, one in left_over if place not in self._too_large}
        if names:
            left, pace = self.context.budget.for_trainings, self.halving.pace
            minutes = self.context.record.decided(
                f"minutes missing, {scope}",
                lambda: max(1, math.ceil((pace(scope) * needed(min(names)) - left()) / 60)),
            )
            self.notes.append(
                _NO_TIME_FOR.format(
                    names=", ".join(names.values()),
                    minutes=minutes,
                    s="s" * (minutes > 1),
                    first=names[min(names)],
                    instead=_INSTEAD * (scope == "all" and not self.halving.trials),
                )
            )
        return left_over

    def _note(self, place: int, result: CandidateResult) -> None:
        self._results[place] = result
        self.context.reporter.candidate_ended(f"candidate-{place + 1:02}", result)

    def refit(self, trial: Trial) -> Finalist | None:
        """The network of a trial that is trained on all rows, with the calibrator of its out-of-fold logits."""
        course = FoldCourse(trial.planned, trial.candidate)
        done = self._runs.run(course.training(None, self.context.reporter.candidates))
        if done.network is None:
            self.notes.append(f"{trial.candidate.name} could not be trained on all rows: {done.reason}")
            return None
        return Finalist(
            done.network,
            trial.calibrated.calibrator,
            replace(trial.result, seconds=trial.result.seconds + done.seconds),
            trial.calibrated.held_out,
            self.context.outputs.features if done.features is None else done.features,
            diagnostics=trial.diagnostics,
            out_of_fold_logits=trial.logits,
        )

    def _skip(self, line: Sequence[tuple[int, Candidate]], reason: str) -> None:
        for place, candidate in line:
            late = [one for one in self.halving.courses if one.planned.place == place]
            why = _NO_MEMORY if place in self._too_large else OUT_OF_TIME.reason if late else reason
            self._note(place, unscored(candidate, "skipped", why, seconds=sum(one.seconds for one in late)))
