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

from fedlas.progress import TRAINING
from fedlas.race.candidate_training import Trainer
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext, TrainingRows
from fedlas.race.fold_course import FoldCourse, Trial
from fedlas.race.obstacles import head_obstacle, training_obstacle
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.results import CandidateResult, Finalist
from fedlas.race.resume import OUT_OF_TIME
from fedlas.race.rungs import Rungs, Spread
from fedlas.race.schedule import PlannedCandidate, WrittenPlan, plan
from fedlas.race.successive_halving import SuccessiveHalving, unscored
from fedlas.race.training_costs import TrainingCosts
from fedlas.race.training_runs import TrainingRuns

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


class CrossFitting:
    """Trains candidates on folds within the budget, and refits the best.

    Args:
        spread: the processes that train beside this one.
    """

    def __init__(self, context: RaceContext, spread: Spread | None = None) -> None:
        self.context = context
        self._notes: list[str] = []
        self._results: dict[int, CandidateResult] = {}
        self._too_large: set[int] = set()
        self._steps, self._refits = context.reporter.progress, 0
        self._obstacle = context.record.decided("obstacle", lambda: training_obstacle(context))
        # Where there is nothing to train on, the obstacle says so and the trainer is not asked.
        self._trainer = Trainer(context, context.training or TrainingRows.of(None, context.calibration))
        self._rungs = Rungs(context, TrainingRuns(context, self._trainer), spread)
        self.halving = SuccessiveHalving(context, self._rungs, self._ended)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate that each scope stands, as far as it was measured."""
        return self._trainer.edges

    def results_with(self, refined: Sequence[Trial]) -> list[CandidateResult]:
        """The results of all candidates in their order; `refined` trials with their newer result."""
        newer = {trial.planned.place: trial.result for trial in refined}
        return [newer.get(place, result) for place, result in sorted(self._results.items())]

    def notes(self) -> list[str]:
        """What a reader of the report must know of the trainings."""
        return [*self._notes, *self._rungs.notes()]

    def out_of_time(self) -> list[str]:
        """A sentence where the budget is the reason why nothing was trained."""
        reasons = {result.reason for result in self._results.values()}
        return [_NOTHING_IN_TIME] if not self.halving.trials and reasons & {_NO_TIME, OUT_OF_TIME.reason} else []

    def run(self, candidates: Sequence[Candidate], *, refits: int) -> None:
        """Run what fits on its folds; time is kept for so many refits."""
        self.context.reporter.candidates = max(1, len(candidates))
        line, self._refits = list(enumerate(candidates)), refits
        self._steps.drop(TRAINING)
        if self._obstacle:
            self._skip(line, self._obstacle)
            self._notes += [f"Nothing was trained: {self._obstacle}."] if line else []
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
        self._steps.begin("measuring")
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
            self._notes.append(_NO_TIME_FOR_ANY)
        if num_folds < len(self.context.folds()):
            self._notes.append(_FEW_FOLDS.format(folds=num_folds))
        if ran and _OURS & {one.method for _, one in line} and not _OURS & set(methods):
            self._notes.append(_WITHOUT_FEDLAS.format(name=methods[0]))
        return [(place, candidate) for place, candidate in line if place in waiting]

    def _ended(self, course: FoldCourse, result: CandidateResult) -> None:
        self._results[course.planned.place] = result
        self.context.reporter.candidate_ended(course.name, result)

    def begin_refits(self, trials: Sequence[Trial]) -> None:
        """These trials are going to be trained on all rows, whatever was expected of refits before."""
        trainings = [self._refit_of(trial) for trial in trials]
        for one in trainings:
            self._steps.expect(one.name, one.work, kind=TRAINING)
        self._steps.drop(*(f"refit {number + 1}" for number in range(self._refits)))
        self._rungs.begin(trainings)

    def refit(self, trial: Trial) -> Finalist | None:
        """The network of a trial that is trained on all rows, with the calibrator of its out-of-fold logits."""
        done = self._rungs.outcome(self._refit_of(trial))
        if done.network is None:
            self._notes.append(f"{trial.candidate.name} could not be trained on all rows: {done.reason}")
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

    def _refit_of(self, trial: Trial) -> PlannedTraining:
        return FoldCourse(trial.planned, trial.candidate).training(None, self.context.reporter.candidates)

    def _skip(self, line: Sequence[tuple[int, Candidate]], reason: str) -> None:
        for place, candidate in line:
            why = _NO_MEMORY if place in self._too_large else reason
            self._results[place] = unscored(candidate, "skipped", why)
            self.context.reporter.candidate_ended(f"candidate-{place + 1:02}", self._results[place])
