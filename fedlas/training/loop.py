"""The training loop: epochs of steps down a loss, with the rows that a loader gathers batch by batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlas.data.arrays import RowReader
from fedlas.data.dataset import Array
from fedlas.training import optimizers
from fedlas.training.checkpoints import Checkpoints, Training
from fedlas.training.computation import Precision
from fedlas.training.optimizers import ParameterGroup

Scope: TypeAlias = Literal["all", "head"]
Optimizer: TypeAlias = Literal["sgd", "adamw"]
Floats: TypeAlias = NDArray[np.float32]


class LossMeter:
    """Adds up losses without waiting for them.

    On the CPU every step is checked: reading costs nothing there, and the losses refuse numbers that are not finite. On
    an accelerator an epoch is read at its end, since reading waits for all kernels that were launched.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cheap = device.type == "cpu"
        self._steps = 0
        # float64: the mean does not depend on when it is read.
        self._losses, self._outputs = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))

    @torch.no_grad()
    def watch(self, *outputs: Tensor) -> bool:
        """Take in what a network says; False once a number of the epoch is known not to be finite."""
        for output in outputs:
            self._outputs += output.sum()
        return not self._is_cheap or self.finite()

    @torch.no_grad()
    def add(self, loss: Tensor) -> bool:
        """Take in the loss of a step; False once a number of the epoch is known not to be finite."""
        self._losses += loss
        self._steps += 1
        return not self._is_cheap or self.finite()

    def finite(self) -> bool:
        """True where all numbers of the epoch are finite; waits for the device."""
        return bool(torch.isfinite(self._losses + self._outputs))

    def mean(self) -> float:
        return float(self._losses) / max(1, self._steps)


def tensor(array: Any) -> Tensor:
    """A tensor that shares memory where it may: torch warns about memory that cannot be written."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """The batch on the device: a copy to an accelerator runs beside its kernels only from pinned memory."""
    if device.type != "cuda" or batch.is_cuda:
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


class Loader:
    """The rows of one array per model input, and of the targets where they are given; all of them, or some.

    Arrays that are mapped from disk are read from their files one batch ahead, while the network computes: a dataset
    larger than memory is fed without being held. Batches for an accelerator leave from pinned memory.

    Args:
        rows: indices (M,) of the only rows that count; row i is then `rows[i]` of the arrays.

    Raises:
        ValueError: there is no array or no row, or the arrays have different lengths.
    """

    def __init__(
        self,
        inputs: Sequence[Array | Tensor],
        device: torch.device,
        *,
        targets: NDArray[np.int64] | Tensor | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._rows = None if rows is None else torch.from_numpy(np.asarray(rows, np.int64))
        arrays = [*inputs, *(() if targets is None else (targets,))]
        self._tensors = [tensor(array) for array in arrays]
        if targets is not None:
            self._tensors[-1] = self._tensors[-1].long()
        self._num_inputs, self._device = len(inputs), device
        self._readers = [RowReader(array) if isinstance(array, np.memmap) else None for array in arrays]
        if not inputs or len(inputs[0]) == 0 or (rows is not None and len(rows) == 0):
            raise ValueError("inputs must hold at least one array and one row")
        if len({len(array) for array in inputs}) > 1:
            raise ValueError(f"inputs must have the same number of rows each, got {[len(array) for array in inputs]}")
        if targets is not None and len(targets) != len(inputs[0]):
            raise ValueError(f"inputs must have {len(targets)} rows each, as targets has, got {len(inputs[0])}")

    def __len__(self) -> int:
        return len(self._tensors[0]) if self._rows is None else len(self._rows)

    def batches(self, chosen: Iterable[Tensor | slice]) -> Iterator[list[Tensor]]:
        """For each choice of rows those rows of every input and of the targets, on the device."""
        if not any(self._readers):
            for rows in chosen:
                mine = self._in_arrays(rows)
                yield [to_device(array[mine], self._device) for array in self._tensors]
            return
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as reader:
            ahead: Future[list[Tensor]] | None = None
            for rows in chosen:
                coming = reader.submit(self._gather, rows)
                if ahead is not None:
                    yield self._arrived(ahead)
                ahead = coming
            if ahead is not None:
                yield self._arrived(ahead)

    def _arrived(self, batch: Future[list[Tensor]]) -> list[Tensor]:
        return [to_device(array, self._device) for array in batch.result()]

    def _in_arrays(self, rows: Tensor | slice) -> Tensor | slice:
        return rows if self._rows is None else self._rows[rows]

    def _gather(self, rows: Tensor | slice) -> list[Tensor]:
        rows = self._in_arrays(rows)
        chosen = rows if isinstance(rows, slice) else rows.numpy()
        return [
            array[rows] if reader is None else torch.from_numpy(reader[chosen])
            for array, reader in zip(self._tensors, self._readers, strict=True)
        ]


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
class TrainingOptions:
    """Options of one training, beside its recipe: what is known beforehand, and what is called on the way.

    Attributes:
        features: `predict_logits(classifier, inputs)[1]` where it is at hand, which saves the pass that initialises the
            statistics of FedLAS (those of some rows that are trained on will do) and, for the scope `head`, feeds the
            head (then of all inputs).
        weights: sampling weights (N,): an epoch draws its rows by them, with replacement, instead of shuffling all.
        checkpoints: is handed the state at each epoch's end; a training that goes on from one ends with the same bits.
        on_epoch: called after every epoch, before its checkpoint; whatever it raises stops the training and passes
            through.
        on_share: called after every step with the share of all steps that is done, as `on_epoch`.
        on_step: called with the loss of every step, on the device and perhaps not finite; False ends the training.
        schedule: the learning rate of a step, counted from 0, in place of the cosine.
        precision: of the network; "auto" is bfloat16 on a card that has it.
    """

    features: Floats | None = None
    weights: NDArray[np.float64] | None = None
    checkpoints: Checkpoints | None = None
    on_epoch: Callable[[EpochResult], None] | None = None
    on_share: Callable[[float], None] | None = None
    on_step: Callable[[Tensor], bool] | None = None
    schedule: Callable[[int], float] | None = None
    precision: Precision = "auto"


def run_epochs(
    training: Training,
    loader: Loader,
    config: TrainConfig,
    gradient: Callable[[list[Tensor], Callable[..., bool]], Tensor | None],
    options: TrainingOptions,
    *,
    began: float,
) -> FitResult:
    """The epochs that no checkpoint holds yet.

    `gradient` of a batch leaves its gradient with the parameters, and is its loss, or None where `watch` says so of
    the outputs.

    The weights of `options` are those of the loader's rows.
    """
    steps = steps_per_epoch(len(loader), config.batch_size)
    rate = options.schedule or cosine(config.learning_rate, config.epochs * steps)
    with own_randomness(config.seed, training.device):
        history = [EpochResult(*epoch) for epoch in training.resume()]
        began -= history[-1].seconds if history else 0.0
        for epoch in range(len(history) + 1, config.epochs + 1):
            meter = LossMeter(training.device)
            batches = loader.batches(shuffled_batches(len(loader), config.batch_size, training.order, options.weights))
            complete = True
            for step, batch in enumerate(batches, start=(epoch - 1) * steps):
                training.optimizer.zero_grad()
                value = gradient(batch, meter.watch)
                complete = value is not None and _stepped(value, training, rate(step), config.clip_norm, meter, options)
                if not complete:
                    break
                if options.on_share is not None:
                    options.on_share((step + 1) / (config.epochs * steps))
            if not complete or not meter.finite():
                return FitResult(tuple(history), time.perf_counter() - began, diverged=not meter.finite())
            seconds, last_rate = time.perf_counter() - began, rate(epoch * steps - 1)
            history.append(EpochResult(epoch, config.epochs, meter.mean(), seconds, last_rate))
            if options.on_epoch is not None:
                options.on_epoch(history[-1])
            training.save([astuple(result) for result in history])
    return FitResult(tuple(history), time.perf_counter() - began)


def _stepped(
    value: Tensor, training: Training, rate: float, clip_norm: float, meter: LossMeter, options: TrainingOptions
) -> bool:
    descend(training.optimizer, rate, clip_norm)
    return meter.add(value) and (options.on_step is None or options.on_step(value))


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


def descend(optimizer: optimizers.Optimizer, rate: float, clip_norm: float) -> None:
    """One step of the optimiser at a learning rate, the gradient of all parameters clipped to a norm."""
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
