"""Successive halving: candidates run within the budget, the best of a short round in full, and each is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedlas.classifier import Classifier
from fedlas.race.candidate_training import Trainer, train_config
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext
from fedlas.race.results import CandidateResult, Finalist, Trial
from fedlas.race.schedule import PlannedTrial, WrittenPlan, plan
from fedlas.training.loop import EpochResult, steps_per_epoch

_NO_TIME = "its measured time does not fit what is left of the budget"
# How many seconds were measured is not said: the same job would say something else the next time.
_NO_TIME_FOR_ANY = (
    "Training the whole network would have taken longer, for a single candidate, than was left of the budget: "
    "at most its head was trained"
)


class SuccessiveHalving:
    """Runs candidates within the budget: heads first, since they cost little, then whole networks."""

    def __init__(self, context: RaceContext) -> None:
        self.context = context
        self.notes: list[str] = []
        self.trials: list[Trial] = []
        self._results: dict[int, CandidateResult] = {}
        self._obstacle = context.record.decided("obstacle", lambda: _obstacle(context))
        self.trainer = None if context.train is None or self._obstacle else Trainer(context)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate that each scope stands, as far as it was measured."""
        return self.trainer.edges if self.trainer else {}

    def best(self, number: int, *, scope: str | None = None) -> list[Trial]:
        """The trials with the lowest NLL."""
        mine = [f for f in self.trials if scope in (None, f.candidate.scope)]
        return sorted(mine, key=lambda trial: trial.nll)[:number]

    def results_with(self, refined: Sequence[Trial]) -> list[CandidateResult]:
        """The results of all candidates in their order; `refined` trials with their newer result."""
        newer = {trial.place: trial.finalist.result for trial in refined}
        return [newer.get(place, result) for place, result in sorted(self._results.items())]

    def run(self, candidates: Sequence[Candidate], *, kept: float, then: int) -> None:
        """Run what fits; `kept` is the share of the time that whole networks leave for what comes after them.

        `then` is how many more things will be reported by `report_last`.
        """
        self.context.reporter.total = max(1, len(candidates) + then)
        line = list(enumerate(candidates))
        if self.trainer is None:
            for place, candidate in line:
                self._skip(place, candidate, self._obstacle)
            return
        heads = [(i, c) for i, c in line if c.scope == "head"]
        self._run_scope("head", heads, self.context.budget.remaining())
        whole = [(i, c) for i, c in line if c.scope != "head"]
        left_over = self._run_scope("all", whole, (1 - kept) * self.context.budget.remaining())
        self._run_scope("head", [(i, c) for i, c in left_over if c.scope == "auto"], self.context.budget.remaining())

    def _run_scope(
        self, scope: str, line: Sequence[tuple[int, Candidate]], seconds: float
    ) -> list[tuple[int, Candidate]]:
        """Run the candidates of one scope within so many seconds; returns those that did not fit."""
        if not line or self.trainer is None:
            return []
        if scope == "head" and (obstacle := _head_obstacle(self.context.classifier, self.trainer)):
            for place, candidate in line:
                self._skip(place, candidate, obstacle)
            return []
        began = self.context.budget.elapsed()
        resolved = {place: self.trainer.resolved(candidate, scope) for place, candidate in line}

        def planned() -> WrittenPlan:
            planned = [PlannedTrial(place, c.epochs or 1, self._epoch_seconds(c)) for place, c in resolved.items()]
            return plan(planned, seconds - (self.context.budget.elapsed() - began)).written()

        taken = self.context.record.decided(f"plan, {scope} from {line[0][0]} on", planned)
        places = {place for place, _ in taken["short"]}.union(taken["full"])
        rest = [(place, candidate) for place, candidate in line if place not in places]
        for place, _ in rest:
            self._skip(place, resolved[place], _NO_TIME)
        if scope == "all" and not places:
            self.notes.append(_NO_TIME_FOR_ANY)
        self._run_plan(taken, resolved)
        return rest

    def _run_plan(self, taken: WrittenPlan, resolved: dict[int, Candidate]) -> None:
        first = []
        for place, epochs in taken["short"]:
            trial = self._run_one(place, replace(resolved[place], epochs=epochs))
            if trial is not None:
                first.append(trial)
        first.sort(key=lambda trial: trial.nll)
        kept = taken["kept"]
        for trial in first[kept:]:
            reason = f"after {trial.candidate.epochs} epochs it was not among the best {kept}"
            if trial.finalist.result.status == "finished":
                self._results[trial.place] = replace(trial.finalist.result, status="halved", reason=reason)
        for place in [*(trial.place for trial in first[:kept]), *taken["full"]]:
            longer = self._run_one(place, resolved[place])
            if longer is not None:
                self.trials.append(longer)
        # A trial of the short round may be averaged too.
        again = {trial.place for trial in self.trials}
        self.trials += [trial for trial in first if trial.place not in again]

    def _run_one(self, place: int, candidate: Candidate) -> Trial | None:
        """Train, calibrate and score one candidate; its result is noted however it ends."""
        assert self.trainer is not None

        def on_epoch(epoch: EpochResult) -> None:
            self.report(place + 1, candidate.name, epoch.epoch, epoch.epochs)
            self.context.budget.check(epoch)

        self.report(place + 1, candidate.name, 0, candidate.epochs or 1)
        name = f"candidate-{place + 1:02}-{candidate.epochs:02}"
        done = self.trainer.train(candidate, on_epoch, name=name)
        result = _unscored(candidate, done.status, done.reason, seconds=done.seconds)
        trial = None
        if done.network is not None and done.logits is not None:
            # One that is dropped can no longer be named alone, but it may be averaged: its errors may be others.
            calibrated = self.context.selector.fit_simplest(done.logits)
            result = self.context.selector.scored(result, calibrated)
            features = self.context.outputs.features if done.features is None else done.features
            fitted, held_out = calibrated.calibrator, calibrated.held_out
            finalist = Finalist(done.network, fitted, result, held_out, features, diagnostics=done.diagnostics)
            trial = Trial(place, candidate, finalist, done.logits, done.features)
        self._results[place] = result
        self.context.reporter.candidate_ended(name, result)
        return trial

    def epoch_seconds(self, candidate: Candidate) -> float:
        """What one epoch of a resolved candidate costs, measured."""
        assert self.trainer is not None
        config = replace(train_config(candidate, self.context.seed), epochs=1)
        inputs, targets = self.trainer.inputs, self.trainer.targets
        step = self.context.budget.step_seconds(
            self.context.classifier,
            inputs,
            targets,
            config,
            features=self.trainer.features,
            device=self.context.device,
        )
        return steps_per_epoch(len(targets), config.batch_size) * step

    def _epoch_seconds(self, candidate: Candidate) -> float:
        """The same, with its share of the one prediction that follows the last epoch."""
        num_rows = 0 if candidate.scope == "head" else len(self.context.selector.targets)
        after = self.context.budget.prediction_seconds(num_rows)
        return self.epoch_seconds(candidate) + after / (candidate.epochs or 1)

    def _skip(self, place: int, candidate: Candidate, reason: str) -> None:
        self.report(place + 1, candidate.name, 0, candidate.epochs or 1)
        self._results[place] = _unscored(candidate, "skipped", reason)

    def report(self, number: int, name: str, epoch: int, epochs: int) -> None:
        """Report where the race stands."""
        done = len(self._results) - (1 if number - 1 in self._results else 0)
        self.context.reporter.report(number, name, epoch, epochs, done=done)

    def report_last(self, name: str, epoch: EpochResult) -> None:
        """Report an epoch of the last training of the race, which is of no candidate."""
        self.report(self.context.reporter.total, name, epoch.epoch, epoch.epochs)


def _obstacle(context: RaceContext) -> str:
    """Why nothing at all can be trained, or an empty text."""
    if context.train is None or len(context.train[1]) == 0:
        return "there are no train rows"
    if not any(parameter.requires_grad for parameter in context.classifier.parameters()):
        return "the model has no weights that can be trained"
    if context.budget.prediction_seconds(len(context.train[1])) > context.budget.remaining():
        return "one pass over the train rows does not fit the budget"
    return ""


def _head_obstacle(classifier: Classifier, trainer: Trainer) -> str:
    """Why no head can be trained alone, or an empty text."""
    if not classifier.head_parameters():
        return "the network has no head of its own to train"
    if not trainer.keeps_features:
        return "the features of so many rows do not fit into memory, so that no head was trained alone"
    return ""


def _unscored(candidate: Candidate, status: str, reason: str, *, seconds: float = 0.0) -> CandidateResult:
    settings = candidate.hyperparameters()
    return CandidateResult(candidate.name, candidate.method, settings, candidate.scope, status, reason, seconds)
