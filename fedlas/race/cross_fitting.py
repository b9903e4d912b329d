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

from fedlas.classifier import Classifier
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext, TrainingRows
from fedlas.race.halving import FoldCourse, SuccessiveHalving, Trial, unscored
from fedlas.race.results import CandidateResult, Finalist
from fedlas.race.schedule import PlannedCandidate, WrittenPlan, plan
from fedlas.race.scoring import FEW_ROWS
from fedlas.race.trainer import OUT_OF_TIME, Trainer, train_config
from fedlas.race.training_runs import TrainingRuns
from fedlas.training.fit import STEPS
from fedlas.training.loop import steps_per_epoch

#: A step takes as long at any rate.
_ANY_RATE = 1e-3
#: BatchNorm has no variance of a single row.
_MIN_ROWS_OF_CLASS = 2
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
_WITHOUT_FEDLAS = "The budget left no time for FedLAS or FedLAS+: for this kind of network {name} comes first"
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

    def range_test(self, candidates: Sequence[Candidate]) -> float:
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
        self.halving = SuccessiveHalving(context, self._runs, self._ended)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate that each scope stands, as far as it was measured."""
        return self._trainer.edges

    def results_with(self, refined: Sequence[Trial]) -> list[CandidateResult]:
        """The results of all candidates in their order; `refined` trials with their newer result."""
        newer = {trial.planned.place: trial.result for trial in refined}
        return [newer.get(place, result) for place, result in sorted(self._results.items())]

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
        # Where whole networks run, a head of its own adds nothing to them.
        instead = [(i, c) for i, c in left_over if c.scope == "auto" and len(left_over) == len(whole)]
        self._skip([one for one in left_over if one not in instead], _NO_TIME)
        heads += instead
        self._skip(self._run_scope("head", sorted(heads, key=lambda one: one[0]), refits), _NO_TIME)

    def _run_scope(self, scope: str, line: Sequence[tuple[int, Candidate]], refits: int) -> list[tuple[int, Candidate]]:
        """Run the candidates of one scope, again and again what fits then; returns those that never did."""
        if scope == "head" and (obstacle := head_obstacle(self.context.classifier, self._trainer)):
            self._skip(line, obstacle)
            return []
        sized = {place: self._trainer.sized(candidate, scope) for place, candidate in line}
        budget, num_folds = self.context.budget, len(self.context.folds())
        costs = TrainingCosts(self.context, self._trainer)
        planned = {place: costs.planned(place, sized[place], may_shorten=one.epochs is None) for place, one in line}
        self._too_large |= {place for place, one in planned.items() if math.isinf(one.epoch_seconds)}
        waiting, ran = dict(planned), list[tuple[PlannedCandidate, int]]()

        def decide() -> WrittenPlan:
            return plan(
                list(waiting.values()),
                budget.for_trainings(self.halving.pace) - costs.range_test(list(sized.values())),
                num_folds=num_folds,
                refits=refits,
                ran=ran,
            ).written()

        while waiting:
            taken = self.context.record.decided(f"plan, {scope}, after {len(ran)}", decide)
            if not taken["epochs"]:
                break
            num_folds = taken["folds"]
            mine = [(waiting.pop(place), epochs) for place, epochs in taken["epochs"]]
            folds = self.context.folds(num_folds)
            courses = [
                FoldCourse(one, self._trainer.rated(replace(sized[one.place], epochs=epochs)), folds)
                for one, epochs in mine
            ]
            self.halving.run(taken, courses, refits=refits)
            ran += mine
        methods = [sized[one.place].method for one, _ in ran]
        if line and not ran and scope == "all":
            self.notes.append(_NO_TIME_FOR_ANY)
        if num_folds < len(self.context.folds()):
            self.notes.append(_FEW_FOLDS.format(folds=num_folds))
        if ran and _OURS & {one.method for _, one in line} and not _OURS & set(methods):
            self.notes.append(_WITHOUT_FEDLAS.format(name=methods[0]))
        return [(place, candidate) for place, candidate in line if place in waiting]

    def _ended(self, course: FoldCourse, result: CandidateResult) -> None:
        self._results[course.planned.place] = result
        self.context.reporter.candidate_ended(course.name, result)

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
            why = _NO_MEMORY if place in self._too_large else reason
            self._results[place] = unscored(candidate, "skipped", why)
            self.context.reporter.candidate_ended(f"candidate-{place + 1:02}", self._results[place])
