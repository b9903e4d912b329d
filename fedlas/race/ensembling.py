"""Ensembling: the best trials of a race are averaged as one file, or one network is trained on their average."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.race.candidate_training import Trainer, default_epochs, train_config
from fedlas.race.context import RaceContext
from fedlas.race.distillation import DistillationFailed, distilled
from fedlas.race.ensemble import Ensemble, cost_factor, log_mean
from fedlas.race.hyperparameters import Settings
from fedlas.race.results import CandidateResult, Finalist, Floats, Trial
from fedlas.race.selection import CalibratorSelector
from fedlas.race.successive_halving import SuccessiveHalving
from fedlas.training.loader import tensor
from fedlas.training.loop import EpochResult

MOST_MEMBERS = 5
#: Rows on which multiplications are counted.
_COUNTED_ROWS = 2
#: The student sees at most so many times the epochs of a candidate: it has the soft answers of several to learn.
STUDENT_EPOCHS = 2
#: A student that could see its rows less often than this is not begun.
_FEWEST_EPOCHS = 4
_UNFINISHED = "one network that learns what an average of networks says was begun and given up:"


def uploaded(classifier: Classifier, selector: CalibratorSelector, logits: Floats, features: Floats) -> Finalist:
    """The uploaded network with its best post-hoc calibrator: the bar for everything that is trained."""
    began = time.perf_counter()
    calibrated = selector.calibrate(logits, features)
    result = selector.post_hoc(calibrated, seconds=time.perf_counter() - began)
    return Finalist(classifier, calibrated.calibrator, result, calibrated.held_out, features)


class EnsembleBuilder:
    """Averages trials: as one file where that is cheap enough, else as the teacher of one network."""

    def __init__(self, context: RaceContext, halving: SuccessiveHalving, max_cost_factor: float) -> None:
        self.context, self.halving, self.max_cost_factor = context, halving, max_cost_factor

    def run(self, post_hoc: Finalist, refined: Sequence[Trial]) -> list[Finalist]:
        """What averaging brings, scored like every candidate."""
        if self.halving.trainer is None:
            return []
        own = {trial.place: trial for trial in [*self.halving.trials, *refined]}
        heads = [trial for trial in own.values() if trial.candidate.scope == "head"]
        found = [self._as_one_file(heads, post_hoc, shares_body=True)]
        if self.max_cost_factor >= 2:
            found.append(self._as_one_file(refined, post_hoc, shares_body=False))
        else:
            found.append(self._distilled(self.halving.trainer))
        made = [one for one in found if one is not None]
        for number, one in enumerate(made, start=1):
            self.context.reporter.candidate_ended(f"average {number}", one.result)
        return made

    def _as_one_file(self, trials: Sequence[Trial], post_hoc: Finalist, *, shares_body: bool) -> Finalist | None:
        most = MOST_MEMBERS if shares_body else min(MOST_MEMBERS, int(self.max_cost_factor))
        members = select_members([post_hoc, *(f.finalist for f in trials)], self.context.selector, most=most)
        while len(members) >= 2:
            made = average(members, self.context.selector, self.context.calibration[0], shares_body=shares_body)
            if made.cost_factor <= self.max_cost_factor:
                return made
            self.halving.notes.append(
                f"an {made.result.name} would have cost {made.cost_factor:.2f} uploaded networks per row, more than "
                f"max_cost_factor allows ({self.max_cost_factor:g})"
            )
            members = members[:-1]  # the last to be added brought least
        return None

    def _distilled(self, trainer: Trainer) -> Finalist | None:
        """One network that learned what the best networks say together, where the time is left.

        They teach with no more than a temperature: a richer calibrator would pass on the labels it was fitted on.
        """
        context, networks = self.context, self.halving.best(len(self.halving.trials), scope="all")
        plain = replace(context.selector, names=("temperature",), reads_features=False)
        base = uploaded(context.classifier, plain, context.outputs.logits, context.outputs.features)
        members = select_members([base, *(_calibrated_by(plain, f) for f in networks)], plain, most=MOST_MEMBERS)
        if not networks or len(members) < 2:
            return None
        epochs = context.record.decided(
            "epochs of the student", lambda: self._affordable_epochs(trainer, networks[0], len(members))
        )
        if epochs < _FEWEST_EPOCHS:
            self.halving.notes.append(
                f"an average of {len(members)} networks was not taught to one network: the budget left too little time"
            )
            return None
        teacher = average(members, plain, context.calibration[0], shares_body=False)
        taught = replace(networks[0].candidate, epochs=epochs, learning_rate=_rate(members))
        try:
            return distilled(context, teacher, train_config(taught, context.seed), self._tell)
        except DistillationFailed as why:
            self.halving.notes.append(f"{_UNFINISHED} {why}")
            return None

    def _affordable_epochs(self, trainer: Trainer, best: Trial, num_members: int) -> int:
        """Epochs that the time left allows: a step of the student and an answer of every member for each row."""
        budget, rows = self.context.budget, len(trainer.targets)
        epoch = self.halving.epoch_seconds(best.candidate) + num_members * budget.prediction_seconds(rows)
        left = budget.remaining() - budget.prediction_seconds(len(self.context.selector.targets))
        return min(STUDENT_EPOCHS * default_epochs(rows, best.candidate.batch_size), int(left / epoch))

    def _tell(self, epoch: EpochResult) -> None:
        self.halving.report_last("student of an average", epoch)
        self.context.budget.check(epoch)


def _calibrated_by(selector: CalibratorSelector, trial: Trial) -> Finalist:
    calibrated = selector.calibrate(trial.logits)
    return replace(trial.finalist, calibrator=calibrated.calibrator, held_out=calibrated.held_out)


def _rate(members: Sequence[Finalist]) -> float:
    """The highest learning rate that did one of the members no harm: a student has much to unlearn."""
    rates = [one.result.hyperparameters.get("learning_rate") for one in members if one.result.status == "finished"]
    known = [rate for rate in rates if rate is not None]
    return float(max(known)) if known else 0.05


def select_members(trials: Sequence[Finalist], selector: CalibratorSelector, *, most: int) -> list[Finalist]:
    """The trials whose averaged cross-fitted probabilities have the lowest NLL, added one by one while it falls.

    Greedy forward selection without replacement (Caruana et al. 2004).
    """
    chosen: list[Finalist] = []
    lowest = np.inf
    while len(chosen) < most:
        rest = [trial for trial in trials if not any(trial is member for member in chosen)]
        scored = [(selector.nll(_average([*chosen, f])), i) for i, f in enumerate(rest)]
        if not scored or min(scored)[0] >= lowest:
            break
        lowest, best = min(scored)
        chosen.append(rest[best])
    return chosen


def average(
    members: Sequence[Finalist], selector: CalibratorSelector, inputs: Sequence[Array], *, shares_body: bool
) -> Finalist:
    """The average of two members or more with one more calibrator, scored like every candidate."""
    began = time.perf_counter()
    networks = [member.classifier for member in members]
    network = Ensemble(networks, [member.calibrator for member in members], shares_body=shares_body)
    averaged = _average(members)
    calibrated = selector.calibrate(averaged.astype(np.float32))
    few = [tensor(array[:_COUNTED_ROWS]) for array in inputs]
    cost = cost_factor([one.to("cpu").eval() for one in networks], few, shares_body=shares_body)
    settings: Settings = {"members": [member.result.name for member in members], "cost_factor": round(cost, 3)}
    name = f"average of {len(members)} {'heads' if shares_body else 'networks'}"
    scope, seconds = "head" if shares_body else "all", time.perf_counter() - began
    result = selector.scored(CandidateResult(name, "ensemble", settings, scope, "finished", "", seconds), calibrated)
    return Finalist(network, calibrated.calibrator, result, calibrated.held_out, members[0].features, cost)


def _average(members: Sequence[Finalist]) -> NDArray[np.float64]:
    return log_mean([member.held_out for member in members])
