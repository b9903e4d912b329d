"""Distillation: one network is trained on the probabilities of an ensemble, and serving costs one network.

Function matching (Beyer et al. 2022, arXiv 2106.05237): the teacher answers anew for every batch, and where inputs are
numbers half of the rows are blends of two, which have no label but the teacher's answer. The last epochs
see plain rows only, so that running statistics of BatchNorm fit what will be served.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.race.context import RaceContext
from fedlas.race.ensemble import Ensemble
from fedlas.race.hyperparameters import Settings
from fedlas.race.results import CandidateResult, Finalist
from fedlas.race.resume import DIVERGED, TrainingOutcome, train_once
from fedlas.training.checkpoints import Checkpoints, Training
from fedlas.training.fit import pick_device, predict_logits
from fedlas.training.loader import Loader, to_device
from fedlas.training.loop import EpochResult, Hooks, TrainConfig, optimizer_of, run_epochs
from fedlas.training.loss_meter import LossMeter

_PLAIN_FROM = 0.8  # share of the epochs after which no rows are blended any more


def distil(
    student: Classifier,
    teacher: Classifier,
    inputs: Sequence[Array],
    config: TrainConfig,
    *,
    device: torch.device,
    on_epoch: Callable[[EpochResult], None],
    weights: NDArray[np.float64] | None = None,
    checkpoints: Checkpoints | None = None,
) -> bool:
    """Train `student` in place on the softmax of the teacher's logits; False where it stopped being finite.

    Rows are drawn by `weights` where there are any; `checkpoints` are those of `fit`.
    """
    began = time.perf_counter()
    student.to(device).train()
    teacher.to(device).eval()
    loader = Loader(inputs, device)
    training = Training([student], optimizer_of([student], config), config.seed, device, checkpoints)

    def loss_of(epoch: int, batch: list[Tensor], meter: LossMeter) -> Tensor:
        blends = epoch <= _PLAIN_FROM * config.epochs and loader.floating
        seen = _blended(batch, training.order) if blends else batch
        with torch.no_grad():
            wanted = F.softmax(teacher(*seen)[0], dim=1)
        return -(wanted * F.log_softmax(student(*seen)[0], dim=1)).sum(dim=1).mean()

    result = run_epochs(training, loader, config, loss_of, weights=weights, hooks=Hooks(on_epoch), began=began)
    student.eval()
    return not result.diverged


def _blended(batch: list[Tensor], order: torch.Generator) -> list[Tensor]:
    """Every second row becomes a blend of itself and another row of the batch, in a share drawn uniformly."""
    size = len(batch[0])
    partner = torch.randperm(size, generator=order)
    share = torch.rand(size, generator=order)
    share[::2] = 1.0
    blended = []
    for array in batch:
        weight = to_device(share, array.device).to(array.dtype).reshape(-1, *[1] * (array.ndim - 1))
        blended.append(weight * array + (1 - weight) * array[to_device(partner, array.device)])
    return blended


class DistillationFailed(Exception):
    """The student diverged, or ran out of time or memory."""


def distilled(
    context: RaceContext, teacher: Finalist, config: TrainConfig, on_epoch: Callable[[EpochResult], None]
) -> Finalist:
    """A copy of the uploaded network, the student, that learned what the teacher says on train rows.

    The teacher's members carry only their temperatures: a richer calibrator was fitted on the labels of the calibration
    rows, which would reach the student and then judge it.

    Raises:
        DistillationFailed: it diverged, or ran out of time or memory.
    """
    members = teacher.result.hyperparameters["members"]
    assert isinstance(teacher.classifier, Ensemble)
    # A member that had been trained otherwise would have another temperature.
    temperatures = [calibrator.parameters() for calibrator in teacher.classifier.calibrators]
    done = train_once(
        context.record,
        "student",
        {"config": asdict(config), "members": members, "temperatures": temperatures},
        scope="all",
        copied=lambda: copy.deepcopy(context.classifier),
        train=lambda student, checkpoints: _trained(
            student, teacher.classifier, context, config, on_epoch, checkpoints
        ),
    )
    if done.network is None or done.logits is None or done.features is None:
        raise DistillationFailed(done.reason)
    settings: Settings = {
        "teacher": members,
        "learning_rate": config.learning_rate,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
    }
    name = f"distilled from an average of {len(members)} networks"
    calibrated = context.selector.calibrate(done.logits, done.features)
    result = CandidateResult(name, "distilled", settings, "all", "finished", "", done.seconds)
    result = context.selector.scored(result, calibrated)
    return Finalist(done.network, calibrated.calibrator, result, calibrated.held_out, done.features)


def _trained(
    student: Classifier,
    teacher: Classifier,
    context: RaceContext,
    config: TrainConfig,
    on_epoch: Callable[[EpochResult], None],
    checkpoints: Checkpoints,
) -> TrainingOutcome:
    assert context.train is not None
    sound = distil(
        student,
        teacher,
        context.train[0],
        config,
        device=pick_device(context.device),
        on_epoch=on_epoch,
        weights=context.weights,
        checkpoints=checkpoints,
    )
    logits, features = predict_logits(student, context.calibration[0], device=context.device)
    if not sound or not (np.isfinite(logits).all() and np.isfinite(features).all()):
        return DIVERGED
    return TrainingOutcome(student, logits, features)
