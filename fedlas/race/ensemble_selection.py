"""What a race would throw away: the average of its best finishers, as an ensemble or taught to one network."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.race.distillation import distil
from fedlas.race.ensemble import Ensemble, cost_factor, log_mean
from fedlas.race.record import Record
from fedlas.race.results import CandidateResult, Finalist
from fedlas.race.resume import Trained, made_once
from fedlas.race.selection import Calibrated, Judge
from fedlas.training.checkpoints import Checkpoints
from fedlas.training.fit import EpochResult, TrainConfig, predict_logits
from fedlas.training.loader import tensor

MOST_MEMBERS = 5
#: Rows on which multiplications are counted.
_COUNTED_ROWS = 2
#: The student sees at most so many times the epochs of a candidate: it has the soft answers of several to learn.
STUDENT_EPOCHS = 2


def greedy_members(finishers: Sequence[Finalist], judge: Judge, *, most: int) -> list[Finalist]:
    """The finishers whose averaged cross-fitted probabilities have the lowest NLL, added one by one while it falls.

    Greedy forward selection without replacement (Caruana et al. 2004).
    """
    chosen: list[Finalist] = []
    lowest = np.inf
    while len(chosen) < most:
        rest = [finisher for finisher in finishers if not any(finisher is member for member in chosen)]
        scored = [(float(judge.row_nll(_average([*chosen, f])).mean()), i) for i, f in enumerate(rest)]
        if not scored or min(scored)[0] >= lowest:
            break
        lowest, best = min(scored)
        chosen.append(rest[best])
    return chosen


def ensemble(
    members: Sequence[Finalist], judge: Judge, inputs: Sequence[NDArray[Any]], *, shares_body: bool
) -> Finalist:
    """The average of two members or more with one more calibrator, scored like every candidate."""
    began = time.perf_counter()
    networks = [member.classifier for member in members]
    network = Ensemble(networks, [member.calibrator for member in members], shares_body=shares_body)
    averaged = _average(members)
    calibrated = judge.calibrate(averaged.astype(np.float32))
    few = [tensor(array[:_COUNTED_ROWS]) for array in inputs]
    cost = cost_factor([one.to("cpu").eval() for one in networks], few, shares_body=shares_body)
    settings = {"members": [member.result.name for member in members], "cost_factor": round(cost, 3)}
    name = f"average of {len(members)} {'heads' if shares_body else 'networks'}"
    scope, seconds = "head" if shares_body else "all", time.perf_counter() - began
    result = _result(name, "ensemble", settings, scope, seconds, calibrated, judge)
    return Finalist(network, calibrated.calibrator, result, calibrated.held_out, members[0].features, cost)


def _average(members: Sequence[Finalist]) -> NDArray[np.float64]:
    return log_mean([member.held_out for member in members])


class Unfinished(Exception):
    """A student that learned nothing that could be judged, and why."""


@dataclass(frozen=True)
class Lesson:
    """How a student is taught."""

    config: TrainConfig
    inputs: Sequence[NDArray[Any]]
    calibration_inputs: Sequence[NDArray[Any]]
    device: torch.device
    on_epoch: Callable[[EpochResult], None]
    weights: NDArray[np.float64] | None
    record: Record


def student(classifier: Classifier, teacher: Finalist, judge: Judge, lesson: Lesson) -> Finalist:
    """A copy of the uploaded network that learned what the teacher says on train rows.

    The teacher's members carry only their temperatures: a richer calibrator was fitted on the labels of the calibration
    rows, which would reach the student and then judge it.

    Raises:
        Unfinished: it diverged, or ran out of time or memory.
    """
    members = teacher.result.hyperparameters["members"]
    assert isinstance(teacher.classifier, Ensemble)
    # A member that had been trained otherwise would have another temperature.
    temperatures = [calibrator.parameters() for calibrator in teacher.classifier.calibrators]
    done = made_once(
        lesson.record,
        "student",
        {"config": asdict(lesson.config), "members": members, "temperatures": temperatures},
        scope="all",
        copied=lambda: copy.deepcopy(classifier),
        train=lambda network, checkpoints: _taught(network, teacher.classifier, lesson, checkpoints),
    )
    if done.network is None or done.logits is None or done.features is None:
        raise Unfinished(done.reason)
    calibrated = judge.calibrate(done.logits, done.features)
    settings = {
        "teacher": members,
        "learning_rate": lesson.config.learning_rate,
        "epochs": lesson.config.epochs,
        "batch_size": lesson.config.batch_size,
    }
    name = f"distilled from an average of {len(members)} networks"
    result = _result(name, "distilled", settings, "all", done.seconds, calibrated, judge)
    return Finalist(done.network, calibrated.calibrator, result, calibrated.held_out, done.features)


def _taught(network: Classifier, teacher: Classifier, lesson: Lesson, checkpoints: Checkpoints) -> Trained:
    sound = distil(
        network, teacher, lesson.inputs, lesson.config,
        device=lesson.device, on_epoch=lesson.on_epoch, weights=lesson.weights, checkpoints=checkpoints,
    )  # fmt: skip
    logits, features = predict_logits(network, lesson.calibration_inputs, device=lesson.device)
    if not sound or not (np.isfinite(logits).all() and np.isfinite(features).all()):
        return Trained(None, status="diverged", reason="its loss stopped being finite")
    return Trained(network, logits, features)


def _result(
    name: str, method: str, settings: dict[str, Any], scope: str, seconds: float, calibrated: Calibrated, judge: Judge
) -> CandidateResult:
    scores = judge.score(calibrated)
    reason = judge.too_inaccurate(scores)
    status = "dropped" if reason else "finished"
    return CandidateResult(name, method, settings, scope, status, reason or "", seconds, scores, calibrated.calibrator)
