"""The heats of a race: which candidates run, for how long, and how each of them finished; it names no finalist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.race.candidates import Candidate
from fedlas.race.clock import Clock
from fedlas.race.judging import Judge
from fedlas.race.plan import Plan, Runner, plan
from fedlas.race.results import CandidateResult, Finalist, Floats, RaceProgress
from fedlas.race.training import Rows, Trainer, train_config
from fedlas.train import EpochResult, steps_per_epoch

OnProgress = Callable[[RaceProgress], None]

_NO_TIME = "its measured time does not fit what is left of the budget"


@dataclass(frozen=True)
class Finisher:
    """A candidate that ran to its end: its place in line, itself as it ran, and what it came to."""

    place: int
    candidate: Candidate
    finalist: Finalist
    logits: Floats
    features: Floats

    @property
    def nll(self) -> float:
        assert self.finalist.result.calibration is not None
        return self.finalist.result.calibration["nll"]


class Heats:
    """Runs candidates within the budget: heads first, since they cost little, then whole networks."""

    def __init__(
        self,
        classifier: Classifier,
        train: Rows | None,
        calibration: Rows,
        judge: Judge,
        clock: Clock,
        *,
        calibration_features: Floats,
        seed: int,
        device: torch.device | str | None,
        on_progress: OnProgress | None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.classifier, self.judge, self.clock = classifier, judge, clock
        self.seed, self.device, self.on_progress = seed, device, on_progress
        self.calibration = calibration
        self.notes: list[str] = []
        self.finishers: list[Finisher] = []
        self.trainer: Trainer | None = None
        self._results: dict[int, CandidateResult] = {}
        self._obstacle = self._find_obstacle(train)
        if train is not None and not self._obstacle:
            self.trainer = Trainer(
                classifier, train, calibration,
                calibration_features=calibration_features, seed=seed, device=device, weights=weights,
            )  # fmt: skip
        self._total = 1
        self._fraction = 0.0

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate that each scope stands, as far as it was measured."""
        return self.trainer.edges if self.trainer else {}

    def best(self, number: int, *, scope: str | None = None) -> list[Finisher]:
        """The finishers with the lowest NLL."""
        mine = [f for f in self.finishers if scope in (None, f.candidate.scope)]
        return sorted(mine, key=lambda finisher: finisher.nll)[:number]

    def results_with(self, refined: Sequence[Finisher]) -> list[CandidateResult]:
        """How everybody ended, in the order of the line; `refined` finishers with their newer result."""
        newer = {finisher.place: finisher.finalist.result for finisher in refined}
        return [newer.get(place, result) for place, result in sorted(self._results.items())]

    def run(self, candidates: Sequence[Candidate], *, kept: float, then: int) -> None:
        """Run what fits; `kept` is the share of the time that whole networks leave for what comes after them.

        `then` is how many more things will be reported by `report_last`.
        """
        self._total = max(1, len(candidates) + then)
        line = list(enumerate(candidates))
        if self.trainer is None:
            for place, candidate in line:
                self._skip(place, candidate, self._obstacle)
            return
        heads = [(i, c) for i, c in line if c.scope == "head"]
        self._run_scope("head", heads, self.clock.left())
        whole = [(i, c) for i, c in line if c.scope != "head"]
        left_over = self._run_scope("all", whole, (1 - kept) * self.clock.left())
        self._run_scope("head", [(i, c) for i, c in left_over if c.scope == "auto"], self.clock.left())

    def _run_scope(
        self, scope: str, line: Sequence[tuple[int, Candidate]], seconds: float
    ) -> list[tuple[int, Candidate]]:
        """Run the candidates of one scope within so many seconds; returns those that did not fit."""
        if not line or self.trainer is None:
            return []
        if scope == "head" and (obstacle := self._find_head_obstacle(self.trainer)):
            for place, candidate in line:
                self._skip(place, candidate, obstacle)
            return []
        began = self.clock.elapsed()
        resolved = {place: self.trainer.resolved(candidate, scope) for place, candidate in line}
        runners = [Runner(place, c.epochs or 1, self._epoch_seconds(c)) for place, c in resolved.items()]
        planned = plan(runners, seconds - (self.clock.elapsed() - began))
        taken = {runner.place for runner in (*planned.short, *planned.full)}
        rest = [(place, candidate) for place, candidate in line if place not in taken]
        for place, _ in rest:
            self._skip(place, resolved[place], _NO_TIME)
        if scope == "all" and not taken:
            self.notes.append(
                f"Training the whole network would have taken {runners[0].seconds(runners[0].epochs):.0f} s per "
                "candidate, more than was left of the budget: at most its head was trained"
            )
        self._run_plan(planned, resolved)
        return rest

    def _run_plan(self, planned: Plan, resolved: dict[int, Candidate]) -> None:
        first = []
        for runner in planned.short:
            candidate = replace(resolved[runner.place], epochs=runner.short)
            finisher = self._run_one(runner.place, candidate)
            if finisher is not None:
                first.append(finisher)
        first.sort(key=lambda finisher: finisher.nll)
        for finisher in first[planned.kept :]:
            reason = f"after {finisher.candidate.epochs} epochs it was not among the best {planned.kept}"
            if finisher.finalist.result.status == "finished":
                self._results[finisher.place] = replace(finisher.finalist.result, status="halved", reason=reason)
        for place in [finisher.place for finisher in first[: planned.kept]] + [runner.place for runner in planned.full]:
            longer = self._run_one(place, resolved[place])
            if longer is not None:
                self.finishers.append(longer)
        # Who ran short took part all the same, and may be averaged.
        again = {finisher.place for finisher in self.finishers}
        self.finishers += [finisher for finisher in first if finisher.place not in again]

    def _run_one(self, place: int, candidate: Candidate) -> Finisher | None:
        """Train, calibrate and score one candidate; its result is noted however it ends."""
        assert self.trainer is not None

        def on_epoch(epoch: EpochResult) -> None:
            self.report(place + 1, candidate.name, epoch.epoch, epoch.epochs)
            self.clock.check(epoch)

        self.report(place + 1, candidate.name, 0, candidate.epochs or 1)
        done = self.trainer.train(candidate, on_epoch)
        result = CandidateResult(
            candidate.name, candidate.method, candidate.hyperparameters(), candidate.scope, done.status, done.reason,
            done.seconds,
        )  # fmt: skip
        self._results[place] = result
        if done.network is None or done.logits is None or done.features is None:
            return None
        calibrated = self.judge.cool(done.logits)
        result = replace(result, calibration=self.judge.score(calibrated), calibrator=calibrated.calibrator)
        self._results[place] = result
        assert result.calibration is not None
        if (reason := self.judge.too_inaccurate(result.calibration)) is not None:
            # It can no longer be named alone, but its errors may be others than those of the rest: it may be averaged.
            result = self._results[place] = replace(result, status="dropped", reason=reason)
        finalist = Finalist(done.network, calibrated.calibrator, result, calibrated.held_out, signs=done.signs)
        return Finisher(place, candidate, finalist, done.logits, done.features)

    def epoch_seconds(self, candidate: Candidate) -> float:
        """What one epoch of a resolved candidate costs, measured."""
        assert self.trainer is not None
        config = replace(train_config(candidate, self.seed), epochs=1)
        inputs, targets = self.trainer.inputs, self.trainer.targets
        step = self.clock.step_seconds(
            self.classifier, inputs, targets, config, features=self.trainer.features, device=self.device
        )
        return steps_per_epoch(len(targets), config.batch_size) * step

    def _epoch_seconds(self, candidate: Candidate) -> float:
        """The same, with its share of the one prediction that follows the last epoch."""
        after = 0.0 if candidate.scope == "head" else self.clock.prediction_seconds(len(self.judge.targets))
        return self.epoch_seconds(candidate) + after / (candidate.epochs or 1)

    def _find_obstacle(self, train: Rows | None) -> str:
        """Why nothing at all can be trained, or an empty text."""
        if train is None or len(train[1]) == 0:
            return "there are no train rows"
        if not any(parameter.requires_grad for parameter in self.classifier.parameters()):
            return "the model has no weights that can be trained"
        if self.clock.prediction_seconds(len(train[1])) > self.clock.left():
            return "one pass over the train rows does not fit the budget"
        return ""

    def _find_head_obstacle(self, trainer: Trainer) -> str:
        """Why no head can be trained alone, or an empty text."""
        if not self.classifier.head_parameters():
            return "the network has no head of its own to train"
        if not trainer.keeps_features:
            return "the features of so many rows do not fit into memory, so that no head was trained alone"
        return ""

    def _skip(self, place: int, candidate: Candidate, reason: str) -> None:
        self.report(place + 1, candidate.name, 0, candidate.epochs or 1)
        self._results[place] = CandidateResult(
            candidate.name, candidate.method, candidate.hyperparameters(), candidate.scope, "skipped", reason
        )

    def report(self, number: int, name: str, epoch: int, epochs: int) -> None:
        """Tell where the race stands."""
        if self.on_progress is None:
            return
        done = len(self._results) - (1 if number - 1 in self._results else 0)
        self._fraction = max(self._fraction, min(1.0, (done + epoch / epochs) / self._total))
        eta = self.clock.elapsed() * (1 - self._fraction) / self._fraction if self._fraction > 0 else self.clock.left()
        eta = max(0.0, min(eta, self.clock.left()))
        self.on_progress(RaceProgress(number, self._total, name, epoch, epochs, self._fraction, eta))

    def report_last(self, name: str, epoch: EpochResult) -> None:
        """Tell of the last thing in line, which is no candidate."""
        self.report(self._total, name, epoch.epoch, epoch.epochs)
