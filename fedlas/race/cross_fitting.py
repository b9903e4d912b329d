"""Cross-fitting: candidates are trained on fresh rows and judged by rows that their network has not seen.

A restart on the rows that a network knows by heart is worse than a temperature; the calibration rows are what teaches
it. So they are cut into folds: the network of a fold trains on the train rows and the other folds, and its logits on
that fold are out-of-fold. These alone choose and calibrate (measured out-of-fold minus test NLL, less the same for a
temperature: .002 and less). One more network, the refit, is trained on all rows; it is what may be served.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedlas.progress import TRAINING
from fedlas.race.candidate_training import Trainer
from fedlas.race.candidates import Candidate
from fedlas.race.context import Integers, RaceContext
from fedlas.race.fold_course import FoldCourse, Trial, expected_trainings
from fedlas.race.obstacles import head_obstacle, training_obstacle
from fedlas.race.results import CandidateResult, Doubles, Finalist
from fedlas.race.resume import OUT_OF_TIME, TrainingOutcome
from fedlas.race.schedule import WrittenPlan, plan
from fedlas.race.training_costs import TrainingCosts
from fedlas.race.training_events import FoldScored, TrainingBegun
from fedlas.race.training_watch import TrainingWatch

_NO_MEMORY = "it does not fit into the device's memory"
_NO_TIME = "its measured time does not fit what is left of the budget"
# How many seconds were measured is not said: the same job would say something else the next time.
_NO_TIME_FOR_ANY = (
    "Training the whole network would have taken longer, for a single candidate, than was left of the budget: "
    "at most its head could be trained"
)
_NOTHING_IN_TIME = (
    "Nothing was trained: the budget left no time for it. A dry run says how many minutes the whole job would take"
)
#: The losses that users come for, and what is said where a budget leaves no time for them.
_OURS = {"fedlas", "fedlas_plus"}
_WITHOUT_FEDLAS = (
    "The budget left time for one candidate, and for this kind of network {name} comes first: FedLAS was not trained"
)
_FEW_FOLDS = (
    "The budget left time for {folds} folds: their networks saw fewer of the fresh rows than the one that is served, "
    "which is therefore likely to be better than its out-of-fold scores"
)


class CrossFitting:
    """Trains candidates on folds within the budget, and refits the best."""

    def __init__(self, context: RaceContext) -> None:
        self.context = context
        self.notes: list[str] = []
        #: Those that ran all folds.
        self.trials: list[Trial] = []
        #: Row NLL (M,) of the best candidate of each method on these calibration rows, with a temperature.
        self.by_method: dict[str, Doubles] = {}
        self.compared_rows: Integers = np.arange(0)
        self._results: dict[int, CandidateResult] = {}
        self._too_large: set[int] = set()
        self._steps, self._refits = context.reporter.progress, 0
        #: How much longer the last training took than it was planned to.
        self._slower = 1.0
        self._obstacle = context.record.decided("obstacle", lambda: training_obstacle(context))
        rows = context.training
        self.trainer = None if rows is None or self._obstacle else Trainer(context, rows)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate that each scope stands, as far as it was measured."""
        return self.trainer.edges if self.trainer else {}

    def results_with(self, refined: Sequence[Trial]) -> list[CandidateResult]:
        """The results of all candidates in their order; `refined` trials with their newer result."""
        newer = {trial.planned.place: trial.result for trial in refined}
        return [newer.get(place, result) for place, result in sorted(self._results.items())]

    def out_of_time(self) -> list[str]:
        """A sentence where the budget is the reason why nothing was trained."""
        reasons = {result.reason for result in self._results.values()}
        return [_NOTHING_IN_TIME] if not self.trials and reasons & {_NO_TIME, OUT_OF_TIME.reason} else []

    def run(self, candidates: Sequence[Candidate], *, refits: int) -> None:
        """Run what fits on its folds; time is kept for so many refits."""
        self.context.reporter.candidates = max(1, len(candidates))
        line = list(enumerate(candidates))
        self._steps.drop(TRAINING)
        if self.trainer is None:
            self._skip(line, self._obstacle)
            self.notes += [f"Nothing was trained: {self._obstacle}."] if line else []
            return
        heads = [(i, c) for i, c in line if c.scope == "head"]
        whole = [(i, c) for i, c in line if c.scope != "head"]
        left_over = self._run_scope("all", whole, refits)
        if len(left_over) < len(whole):  # whole networks run: a head of its own adds nothing to them
            self._skip(left_over, _NO_TIME)
            left_over = []
        else:
            self._skip([(i, c) for i, c in left_over if c.scope == "all"], _NO_TIME)
        heads += [(i, c) for i, c in left_over if c.scope == "auto"]
        self._skip(self._run_scope("head", sorted(heads, key=lambda one: one[0]), refits), _NO_TIME)

    def _run_scope(self, scope: str, line: Sequence[tuple[int, Candidate]], refits: int) -> list[tuple[int, Candidate]]:
        """Run the candidates of one scope; returns those that did not fit."""
        if not line or self.trainer is None:
            return []
        if scope == "head" and (obstacle := head_obstacle(self.context.classifier, self.trainer)):
            self._skip(line, obstacle)
            return []
        sized = {place: self.trainer.sized(candidate, scope) for place, candidate in line}
        may_shorten = {place for place, candidate in line if candidate.epochs is None}
        budget, num_folds = self.context.budget, len(self.context.folds())
        self._steps.begin("measuring")
        costs = TrainingCosts(self.context, self.trainer)
        planned = {place: costs.planned(place, one, may_shorten=place in may_shorten) for place, one in sized.items()}

        def decide() -> WrittenPlan:
            seconds = budget.remaining() - budget.reserve - costs.range_test(list(sized.values()))
            return plan(list(planned.values()), seconds, num_folds=num_folds, refits=refits).written()

        taken = self.context.record.decided(f"plan, {scope} from {line[0][0]} on", decide)
        places = {place for place, _ in taken["epochs"]}
        self._too_large |= {place for place, one in planned.items() if math.isinf(one.epoch_seconds)}
        if not places and scope == "all":
            self.notes.append(_NO_TIME_FOR_ANY)
        folds = self.context.folds(taken["folds"]) if places else []
        if places and len(folds) < num_folds:
            self.notes.append(_FEW_FOLDS.format(folds=len(folds)))
        methods = {place: candidate.method for place, candidate in line}
        if places and set(methods.values()) & _OURS and not {methods[place] for place in places} & _OURS:
            self.notes.append(_WITHOUT_FEDLAS.format(name=sized[min(places)].method))
        self._run_plan(
            taken,
            [
                FoldCourse(planned[place], self.trainer.rated(replace(sized[place], epochs=count)), folds)
                for place, count in taken["epochs"]
            ],
            refits,
        )
        return [(place, candidate) for place, candidate in line if place not in places]

    def _run_plan(self, taken: WrittenPlan, courses: Sequence[FoldCourse], refits: int) -> None:
        first, folds = taken["first_folds"], taken["folds"]
        for step, work in expected_trainings(courses, first, folds, taken["kept"], refits).items():
            self._steps.expect(step, work, kind=TRAINING)
        for course in courses:
            self._run_folds(course, range(first), last=folds)
        running = [one for one in courses if one.runs_well]
        self._compare(running)
        if first == folds:
            return
        kept = self._best_first(running)[: taken["kept"]]
        for course in (one for one in running if one not in kept):
            self._eliminate(course, len(kept))
        later = range(first, folds)
        self._steps.drop(*(one.step(fold) for one in running for fold in later))
        for step, work in {one.step(fold): one.fold_work for one in kept for fold in later}.items():
            self._steps.expect(step, work, kind=TRAINING)
        for course in kept:
            self._run_folds(course, later, last=folds)

    def _run_folds(self, course: FoldCourse, folds: range, *, last: int) -> None:
        """Train without each of these folds, until one does not end well; after the last one the candidate ends."""
        for fold in folds:
            name = f"{course.name}-{course.candidate.epochs:02}-fold-{fold + 1}"
            after = (last - fold - 1) * course.fold_work + course.refit_work
            training = course.training(self.context.reporter.candidates, fold=fold + 1, folds=last)
            done = self._train(course, training, name, course.folds[fold], course.step(fold), course.fold_work, after)
            course.outcomes[fold] = done
            if done.logits is None:
                self._steps.drop(*map(course.step, range(fold + 1, last)))
                self._ended(course, _unscored(course.candidate, done.status, done.reason, seconds=course.seconds))
                return
            nll = self.context.selector.of_rows(course.folds[fold]).nll_at_a_glance(done.logits)
            if math.isfinite(nll):
                self.context.reporter.happened(FoldScored(training, nll))
        if folds.stop == last:
            self._finish(course)

    def _train(
        self,
        course: FoldCourse,
        training: TrainingBegun,
        name: str,
        left_out: Integers | None,
        step: str,
        work: float,
        after: float,
    ) -> TrainingOutcome:
        """Train once, unless what is left of the budget is too little for it.

        Args:
            step: of the job's progress.
            work: seconds that this training was planned to take.
            after: those that the candidate needs then, lest it ends in nothing.
        """
        assert self.trainer is not None
        reporter, budget = self.context.reporter, self.context.budget
        seconds = self._slower * (work + after)
        if not self.context.record.decided(f"time for {name}", lambda: budget.fits(seconds)):
            self._steps.drop(step)
            return OUT_OF_TIME
        self._steps.expect(step, work, kind=TRAINING)
        self._steps.begin(step)
        watch = TrainingWatch(reporter, budget, training, work=work, after=after, trained=course.trained_share)
        watch.begins()
        done = self.trainer.train(
            course.candidate, watch.on_epoch, left_out=left_out, name=name, on_share=watch.on_share
        )
        self._steps.end(done.seconds, whole=done.status == "finished")
        if done.status == "finished" and work > 0:
            self._slower = max(1.0, done.seconds / work)
        return done

    def _compare(self, courses: Sequence[FoldCourse]) -> None:
        """Note the row NLL of the best candidate of each method on the folds that all of these have run."""
        for course in self._best_first(courses):
            self.compared_rows = course.rows
            self.by_method.setdefault(course.candidate.method, course.row_nll(self.context.selector))

    def _best_first(self, courses: Sequence[FoldCourse]) -> list[FoldCourse]:
        """By their NLL on the folds that they have run."""
        return sorted(courses, key=lambda one: one.nll(self.context.selector))

    def _eliminate(self, course: FoldCourse, kept: int) -> None:
        selector = self.context.selector
        result = replace(
            selector.of_rows(course.rows).scored(self._named(course), course.calibrated(selector)),
            status="eliminated",
            reason=f"after {len(course.outcomes)} of {len(course.folds)} folds it was not among the best {kept}",
        )
        self._ended(course, result)

    def _finish(self, course: FoldCourse) -> None:
        """Put the folds together: every calibration row has logits of a network that has not seen it."""
        logits = course.logits[np.argsort(course.rows)]
        calibrated = self.context.selector.fit_simplest(logits)
        result = self.context.selector.scored(self._named(course), calibrated)
        self.trials.append(Trial(course.planned, course.candidate, result, calibrated, logits, course.diagnostics))
        self._ended(course, result)

    def _ended(self, course: FoldCourse, result: CandidateResult) -> None:
        self._results[course.planned.place] = result
        self.context.reporter.candidate_ended(course.name, result)

    def _named(self, course: FoldCourse) -> CandidateResult:
        return _unscored(course.candidate, "finished", "", seconds=course.seconds)

    def refit(self, trial: Trial) -> Finalist | None:
        """The network of a trial that is trained on all rows, with the calibrator of its out-of-fold logits."""
        course = FoldCourse(trial.planned, trial.candidate)
        name = f"{course.name}-{trial.candidate.epochs:02}-refit"
        self._refits += 1
        training = course.training(self.context.reporter.candidates)
        done = self._train(course, training, name, None, f"refit {self._refits}", course.refit_work, 0.0)
        if done.network is None:
            self.notes.append(f"{trial.candidate.name} could not be trained on all rows: {done.reason}")
            return None
        features = self.context.outputs.features if done.features is None else done.features
        result = replace(trial.result, seconds=trial.result.seconds + done.seconds)
        return Finalist(
            done.network,
            trial.calibrated.calibrator,
            result,
            trial.calibrated.held_out,
            features,
            diagnostics=trial.diagnostics,
            out_of_fold_logits=trial.logits,
        )

    def no_more_refits(self) -> None:
        """Whatever was expected of them, none is to come."""
        self._steps.drop(*(f"refit {number}" for number in range(self._refits + 3)))

    def _skip(self, line: Sequence[tuple[int, Candidate]], reason: str) -> None:
        for place, candidate in line:
            why = _NO_MEMORY if place in self._too_large else reason
            self._results[place] = _unscored(candidate, "skipped", why)
            self.context.reporter.candidate_ended(f"candidate-{place + 1:02}", self._results[place])


def _unscored(candidate: Candidate, status: str, reason: str, *, seconds: float = 0.0) -> CandidateResult:
    settings = candidate.hyperparameters()
    return CandidateResult(candidate.name, candidate.method, settings, candidate.scope, status, reason, seconds)
