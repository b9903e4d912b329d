"""Batch statistics: what the first BatchNormalization of a network gets, beside what it got in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlas.importers import GraphClassifier
from fedlas.preconditions.remedies import Rows
from fedlas.preconditions.trials import Trials

#: Rows that are looked at; how many deviations the median channel may be off, and how many times wider or narrower.
_ROWS, _FAR_SHIFT, _FAR_RATIO = 32, 6.0, 8.0


@dataclass(frozen=True)
class BatchStatistics:
    """Of the median channel: by how many deviations its mean is off, and how many times as wide it is."""

    shift: float
    ratio: float

    @property
    def far(self) -> bool:
        """Whether the inputs cannot be what the network was trained on."""
        return self.shift > _FAR_SHIFT or not 1 / _FAR_RATIO < self.ratio < _FAR_RATIO


def batch_statistics(classifier: GraphClassifier, trials: Trials) -> BatchStatistics | None:
    """Of the first module with running statistics that rows meet; None where there is none."""
    heard: list[tuple[nn.Module, Tensor]] = []

    def listen(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not heard:
            heard.append((module, inputs[0].detach()))

    modules = [m for m in classifier.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    if not modules:
        return None
    hooks = [module.register_forward_pre_hook(listen) for module in modules]
    try:
        trials.answers(_few(trials.judged))
    finally:
        for hook in hooks:
            hook.remove()
    return _compared(*heard[0]) if heard else None


def _few(rows: Rows) -> Rows:
    return [array[:_ROWS] for array in rows]


@torch.no_grad()
def _compared(module: nn.Module, given: Tensor) -> BatchStatistics | None:
    mean, variance = module.running_mean, module.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    if given.ndim < 2 or given.shape[1] != mean.numel():
        return None
    channels = given.float().transpose(0, 1).flatten(1)
    alive = variance > 1e-3 * variance.median()  # channels that a ReLU has shut vary by nothing
    if channels.shape[1] < 2 or not alive.any():
        return None
    deviation = variance[alive].sqrt()
    shift = ((channels.mean(1)[alive] - mean[alive]).abs() / deviation).median()
    ratio = (channels.std(1)[alive] / deviation).median()
    found = BatchStatistics(float(shift), float(ratio))
    return found if np.isfinite((found.shift, found.ratio)).all() else None
