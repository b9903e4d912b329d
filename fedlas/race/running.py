"""The race: each candidate is trained on a copy, calibrated and scored on calibration rows; it sees no test rows."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.calibrators import TemperatureScaling
from fedlas.classifier import Classifier
from fedlas.race.candidates import Candidate, for_head, make_loss
from fedlas.race.clock import Clock, OverBudget
from fedlas.race.results import CandidateResult, Finalist, Floats, RaceProgress, RaceResult
from fedlas.race.scoring import fit_calibrator, score
from fedlas.train import EpochResult, TrainConfig, fit, predict_logits

Rows = tuple[Sequence[NDArray[Any]], NDArray[np.int64]]
OnProgress = Callable[[RaceProgress], None]


def race(
    classifier: Classifier,
    *,
    train: Rows | None,
    calibration: Rows,
    candidates: Sequence[Candidate],
    budget_seconds: float,
    max_accuracy_drop: float = 0.005,
    seed: int = 0,
    task: str = "multiclass",
    calibrators: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
    device: torch.device | str | None = None,
) -> RaceResult:
    """Name the post-hoc and the trained finalist on calibration rows; `classifier` itself is left as it is.

    The uploaded model with a temperature always finishes. No candidate starts unless its measured time fits what is
    left of the budget; where the whole network does not fit, only the head is trained, on features that are computed
    once. Candidates whose accuracy falls more than `max_accuracy_drop` under the uploaded model's are dropped; the
    lowest NLL wins.

    Args:
        train, calibration: `(inputs, targets)`, one array per model input; `train` None or empty trains nothing.
        task: `binary` (two classes) lets an affine calibrator compete with the temperature.
        calibrators: names that may compete, over what `task` says (for example only `temperature`).
        on_progress: called before every candidate and after every epoch; what it raises stops the race.
    """
    names = calibrators or (("temperature", "affine") if task == "binary" else ("temperature",))
    clock = Clock(budget_seconds)
    base_logits, _ = clock.timed_prediction(classifier, calibration[0], device=device)
    track = _Track(classifier, train, calibration, tuple(names), clock, max_accuracy_drop, seed, device, on_progress)
    temperature = TemperatureScaling().fit(base_logits, calibration[1])
    post_hoc = track.judge_post_hoc(base_logits)
    results = [post_hoc.result, *track.run(candidates)]
    classifier.to("cpu")
    trained = track.best
    return RaceResult(tuple(results), temperature, post_hoc, trained, base_logits, tuple(dict.fromkeys(track.notes)))


@dataclass
class _Track:
    """The rows, the clock and the best network so far: only one copy beside the uploaded model is ever kept."""

    classifier: Classifier
    train: Rows | None
    calibration: Rows
    calibrators: tuple[str, ...]
    clock: Clock
    max_accuracy_drop: float
    seed: int
    device: torch.device | str | None
    on_progress: OnProgress | None
    best: Finalist | None = None
    notes: list[str] = field(default_factory=list)
    base_accuracy: float = 0.0
    bar: float = np.inf
    features: Floats | None = None

    def judge_post_hoc(self, logits: Floats) -> Finalist:
        """The uploaded network with its best post-hoc calibrator: the bar for everything that is trained."""
        self.base_accuracy = score(logits, self.calibration[1])["accuracy"]
        calibrator = fit_calibrator(logits, self.calibration[1], self.calibrators, self._floor(), seed=self.seed)
        scores = score(calibrator(logits), self.calibration[1])
        self.bar = scores["nll"]
        method = "temperature" if calibrator.name == "temperature" else "post_hoc"
        result = CandidateResult(
            f"uploaded + {calibrator.name}",
            method,
            {},
            "none",
            "finished",
            "",
            self.clock.elapsed(),
            scores,
            calibrator,
        )
        return Finalist(self.classifier, calibrator, result)

    def run(self, candidates: Sequence[Candidate]) -> list[CandidateResult]:
        """Every candidate in order, trained or skipped with a reason."""
        obstacle = self._obstacle() if candidates else ""
        if not obstacle and candidates:
            self.features = predict_logits(self.classifier, self._train()[0], device=self.device)[1]
        results = []
        for number, candidate in enumerate(candidates, start=1):
            scope = "" if obstacle else self._scope(candidate)
            self._report(number, len(candidates), candidate, None)
            if not scope:
                results.append(
                    _skipped(candidate, obstacle or "its measured time does not fit what is left of the budget")
                )
                continue
            results.append(self._run_one(self._scoped(candidate, scope), number, len(candidates)))
        return results

    def _obstacle(self) -> str:
        """Why nothing at all can be trained, or an empty text."""
        if self.train is None or len(self.train[1]) == 0:
            return "there are no train rows"
        if not any(parameter.requires_grad for parameter in self.classifier.parameters()):
            return "the model has no weights that can be trained"
        if self.clock.prediction_seconds(len(self.train[1])) > self.clock.left():
            return "one pass over the train rows does not fit the budget"
        return ""

    def _train(self) -> Rows:
        assert self.train is not None
        return self.train

    def _scope(self, candidate: Candidate) -> str:
        """`all` or `head`, whichever is wanted and fits the time that is left; empty where none does."""
        wanted = ("all", "head") if candidate.scope == "auto" else (candidate.scope,)
        for scope in wanted:
            if scope == "head" and not self.classifier.head_parameters():
                continue
            seconds = self._estimate(replace(candidate, scope=scope))
            if seconds <= self.clock.left():
                return scope
            if scope == "all" and len(wanted) > 1:
                self.notes.append(
                    f"training the whole network would have taken {seconds:.0f} s per candidate, more than was left of "
                    "the budget: only its head was trained"
                )
        return ""

    def _scoped(self, candidate: Candidate, scope: str) -> Candidate:
        if scope == "head" and self.features is not None:
            return for_head(candidate, self.features)
        return replace(candidate, scope=scope)

    def _estimate(self, candidate: Candidate) -> float:
        inputs, targets = self._train()
        config = _config(candidate, self.seed)
        return self.clock.training_seconds(
            self.classifier, inputs, targets, config, features=self.features, device=self.device
        ) + self.clock.prediction_seconds(len(self.calibration[1]))

    def _run_one(self, candidate: Candidate, number: int, total: int) -> CandidateResult:
        """Copy, train, calibrate, score: the copy is kept only if it is the best so far."""
        began = time.perf_counter()
        network = copy.deepcopy(self.classifier)
        loss = make_loss(candidate, network.num_classes, seed=self.seed)

        def on_epoch(epoch: EpochResult) -> None:
            self._report(number, total, candidate, epoch)
            self.clock.check(epoch)

        done = _skipped(candidate, "")
        try:
            inputs, targets = self._train()
            config = _config(candidate, self.seed)
            fitted = fit(
                network, loss, inputs, targets, config, on_epoch=on_epoch, device=self.device, features=self.features
            )
            logits = predict_logits(network, self.calibration[0], device=self.device)[0]
            diverged = fitted.diverged or not np.isfinite(logits).all()
        except OverBudget:
            return replace(done, reason="it ran slower than measured and out of the budget", seconds=_since(began))
        except torch.OutOfMemoryError:
            return replace(done, reason="it does not fit into the device's memory", seconds=_since(began))
        if diverged:
            return replace(done, status="diverged", reason="its loss stopped being finite", seconds=_since(began))
        return self._keep_if_best(network, logits, replace(done, seconds=_since(began)))

    def _keep_if_best(self, network: Classifier, logits: Floats, done: CandidateResult) -> CandidateResult:
        targets = self.calibration[1]
        calibrator = fit_calibrator(logits, targets, self.calibrators, self._floor(), seed=self.seed)
        scores = score(calibrator(logits), targets)
        done = replace(done, status="finished", calibration=scores, calibrator=calibrator)
        if scores["accuracy"] < self._floor():
            drop = 100 * (self.base_accuracy - scores["accuracy"])
            reason = f"its accuracy on the calibration rows is {drop:.2f} points under the uploaded model's"
            return replace(done, status="dropped", reason=reason)
        if scores["nll"] < self.bar:
            self.bar, self.best = scores["nll"], Finalist(network.to("cpu"), calibrator, done)
        return done

    def _floor(self) -> float:
        # Accuracies are multiples of 1/N: the tiny term keeps a drop of exactly the limit on the right side.
        return self.base_accuracy - self.max_accuracy_drop - 1e-9

    def _report(self, number: int, total: int, candidate: Candidate, epoch: EpochResult | None) -> None:
        if self.on_progress is None:
            return
        at = epoch.epoch if epoch else 0
        fraction = (number - 1 + at / candidate.epochs) / total
        eta = self.clock.elapsed() * (1 - fraction) / fraction if fraction > 0 else self.clock.left()
        self.on_progress(
            RaceProgress(
                number, total, candidate.name, at, candidate.epochs, fraction, max(0.0, min(eta, self.clock.left()))
            )
        )


def _config(candidate: Candidate, seed: int) -> TrainConfig:
    return TrainConfig(
        epochs=candidate.epochs,
        batch_size=candidate.batch_size,
        learning_rate=candidate.learning_rate,
        seed=seed,
        scope="head" if candidate.scope == "head" else "all",
    )


def _skipped(candidate: Candidate, reason: str) -> CandidateResult:
    return CandidateResult(
        candidate.name, candidate.method, candidate.hyperparameters(), candidate.scope, "skipped", reason
    )


def _since(began: float) -> float:
    return time.perf_counter() - began
