"""The training loop: epochs of steps down a loss, in the order in which they happen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlas.training import optimizers
from fedlas.training.checkpoints import Training
from fedlas.training.loader import Loader
from fedlas.training.loss_meter import LossMeter
from fedlas.training.optimizers import ParameterGroup

Scope: TypeAlias = Literal["all", "head"]
Optimizer: TypeAlias = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a warm restart: an optimiser whose learning rate falls from a peak to 0 along a cosine.

    Attributes:
        momentum: of SGD; AdamW keeps the betas of its authors.
        weight_decay: of the network; AdamW decouples it from the gradient. A gate of FedLAS does not decay.

    Raises:
        ValueError: a number is out of its range.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 2.0
    seed: int = 0
    scope: Scope = "all"
    optimizer: Optimizer = "sgd"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1, got {self.epochs}, {self.batch_size}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                f"momentum must lie in [0, 1) and weight_decay not be negative, got {self.momentum!r}, "
                f"{self.weight_decay!r}"
            )
        if self.scope not in ("all", "head"):
            raise ValueError(f"scope must be 'all' or 'head', got {self.scope!r}")
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer must be 'sgd' or 'adamw', got {self.optimizer!r}")


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1: mean training loss, seconds since the loop began, learning rate of its last step."""

    epoch: int
    epochs: int
    loss: float
    seconds: float
    learning_rate: float | None = None


@dataclass(frozen=True)
class FitResult:
    """The epochs that were run; `diverged` where loss, logits or features stopped being finite."""

    history: tuple[EpochResult, ...]
    seconds: float
    diverged: bool = False


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a training; see `fit`."""

    on_epoch: Callable[[EpochResult], None] | None = None
    on_share: Callable[[float], None] | None = None
    on_step: Callable[[Tensor], bool] | None = None
    schedule: Callable[[int], float] | None = None


def run_epochs(
    training: Training,
    loader: Loader,
    config: TrainConfig,
    loss_of: Callable[[list[Tensor], LossMeter], Tensor | None],
    *,
    began: float,
    weights: NDArray[np.float64] | None = None,
    hooks: Hooks = Hooks(),
) -> FitResult:
    """The epochs that no checkpoint holds yet; `loss_of` a batch is None where outputs are not finite."""
    steps = steps_per_epoch(len(loader), config.batch_size)
    rate = hooks.schedule or cosine(config.learning_rate, config.epochs * steps)
    with own_randomness(config.seed, training.device):
        history = [EpochResult(*epoch) for epoch in training.resume()]
        began -= history[-1].seconds if history else 0.0
        for epoch in range(len(history) + 1, config.epochs + 1):
            meter = LossMeter(training.device)
            batches = loader.batches(shuffled_batches(len(loader), config.batch_size, training.order, weights))
            complete = True
            for step, batch in enumerate(batches, start=(epoch - 1) * steps):
                value = loss_of(batch, meter)
                complete = value is not None and _stepped(value, training, rate(step), config.clip_norm, meter, hooks)
                if not complete:
                    break
                if hooks.on_share is not None:
                    hooks.on_share((step + 1) / (config.epochs * steps))
            if not complete or not meter.finite():
                return FitResult(tuple(history), time.perf_counter() - began, diverged=not meter.finite())
            seconds, last_rate = time.perf_counter() - began, rate(epoch * steps - 1)
            history.append(EpochResult(epoch, config.epochs, meter.mean(), seconds, last_rate))
            if hooks.on_epoch is not None:
                hooks.on_epoch(history[-1])
            training.save([astuple(result) for result in history])
    return FitResult(tuple(history), time.perf_counter() - began)


def _stepped(value: Tensor, training: Training, rate: float, clip_norm: float, meter: LossMeter, hooks: Hooks) -> bool:
    """Take one step down the loss; False where the training ends with it."""
    descend(value, training.optimizer, rate, clip_norm)
    going = hooks.on_step is None or hooks.on_step(value.detach())
    return meter.add(value) and going


def optimizer_of(modules: Sequence[nn.Module], config: TrainConfig) -> optimizers.Optimizer:
    """The optimiser of all parameters that can be trained: those of the network, which comes first, and of its loss.

    Weight decay reaches the network alone: it is a prior on what is served, and a gate that it shrinks only loses
    the direction that the loss has learned.
    """
    groups = [
        ParameterGroup([p for p in module.parameters() if p.requires_grad], decay)
        for module, decay in zip(modules, (config.weight_decay, 0.0), strict=False)
    ]
    return optimizers.AdamW(groups) if config.optimizer == "adamw" else optimizers.SGD(groups, config.momentum)


def descend(loss: Tensor, optimizer: optimizers.Optimizer, rate: float, clip_norm: float) -> None:
    """One step of the optimiser at a learning rate, the gradient of all parameters clipped to a norm."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.parameters, clip_norm)
    optimizer.step(rate)


def cosine(peak: float, steps: int) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: from `peak` along a half cosine to 0."""
    return lambda step: 0.5 * peak * (1 + math.cos(math.pi * step / steps))


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Full batches in an epoch; a last partial batch is dropped unless it is the only one."""
    return max(1, num_rows // batch_size)


def shuffled_batches(
    num_rows: int, batch_size: int, order: torch.Generator, weights: NDArray[np.float64] | None = None
) -> Iterator[Tensor]:
    """The rows of one epoch, batch by batch: all of them shuffled, or as many drawn by their sampling weights."""
    if weights is None:
        rows = torch.randperm(num_rows, generator=order)
    else:
        # `torch.multinomial` stops at 2^24 rows.
        ends = torch.from_numpy(np.cumsum(weights, dtype=np.float64))
        drawn = torch.rand(num_rows, generator=order, dtype=torch.float64) * ends[-1]
        rows = torch.searchsorted(ends, drawn, right=True).clamp_(max=num_rows - 1)
    for i in range(steps_per_epoch(num_rows, batch_size)):
        yield rows[i * batch_size : (i + 1) * batch_size]


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from `seed`, and the caller's random state is as it was afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
