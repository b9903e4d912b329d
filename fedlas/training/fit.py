"""The training loop, in the order in which it happens."""

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

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.losses import FedLASLoss, FedLASPlusLoss
from fedlas.training.checkpoints import Checkpoints, Training, trained_part
from fedlas.training.loader import Loader
from fedlas.training.loss_meter import LossMeter

Floats: TypeAlias = NDArray[np.float32]
Scope: TypeAlias = Literal["all", "head"]


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a warm restart: SGD with a high peak learning rate that falls to 0 along a cosine.

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


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1: mean training loss, and the seconds since the loop began."""

    epoch: int
    epochs: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """The epochs that were run; `diverged` where loss, logits or features stopped being finite."""

    history: tuple[EpochResult, ...]
    seconds: float
    diverged: bool = False


def fit(
    classifier: Classifier,
    loss: nn.Module,
    inputs: Sequence[Array | Tensor],
    targets: NDArray[np.int64] | Tensor,
    config: TrainConfig,
    *,
    on_epoch: Callable[[EpochResult], None] | None = None,
    device: torch.device | str | None = None,
    features: Floats | None = None,
    schedule: Callable[[int], float] | None = None,
    on_step: Callable[[Tensor], bool] | None = None,
    weights: NDArray[np.float64] | None = None,
    checkpoints: Checkpoints | None = None,
) -> FitResult:
    """Train `classifier` in place (it ends in evaluation mode, on `device`), and the gate of `loss` with it.

    Args:
        loss: `loss(logits (N, K), targets (N,), features (N, D)) -> scalar`.
        inputs: one array per model input, the first dimension is N; targets: class indices (N,).
        on_epoch: called after every epoch; whatever it raises stops the training and passes through.
        device: CUDA where there is one, unless told otherwise.
        features: `predict_logits(classifier, inputs)[1]` where it is at hand, which saves the pass that
            initialises the statistics of FedLAS (those of some rows will do) and, for the scope `head`, feeds the head.
        schedule: the learning rate of a step, counted from 0, in place of the cosine.
        on_step: called with the loss of every step, on the device and perhaps not finite; False ends the training.
        weights: sampling weights (N,): an epoch draws its N rows by them, with replacement, instead of shuffling all.
        checkpoints: is handed the state at each epoch's end; a training that goes on from one ends with the same bits.

    Raises:
        ValueError: there are no rows, or the arrays have different lengths.
    """
    began = time.perf_counter()
    device = pick_device(device)
    classifier.to(device)
    loss.to(device)
    head = config.scope == "head"
    features = _prepared(classifier, loss, inputs, features, head=head, device=device)
    loader = Loader([features] if head and features is not None else inputs, device, targets=targets)

    parameters = [*_trained_parameters(classifier, head=head), *loss.parameters()]
    optimizer = torch.optim.SGD(
        parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    steps = steps_per_epoch(len(loader), config.batch_size)
    rate = schedule or cosine(config.learning_rate, config.epochs * steps)
    order = torch.Generator().manual_seed(config.seed)
    training = Training([trained_part(classifier, config.scope), loss], optimizer, order, device, checkpoints)
    sound, stopped = True, False
    with own_randomness(config.seed, device):
        history = [EpochResult(*epoch) for epoch in training.resume()]
        began -= history[-1].seconds if history else 0.0
        step = len(history) * steps
        for epoch in range(len(history) + 1, config.epochs + 1):
            meter = LossMeter(device)
            for _, (*batch, wanted) in loader.batches(shuffled_batches(len(loader), config.batch_size, order, weights)):
                logits, seen = (classifier.head(batch[0]), batch[0]) if head else classifier(*batch)
                sound = meter.watch(logits, seen)
                if not sound:
                    break
                value: Tensor = loss(logits, wanted, seen)
                descend(value, optimizer, rate(step), config.clip_norm)
                step += 1
                stopped = on_step is not None and not on_step(value.detach())
                sound = meter.add(value)
                if stopped or not sound:
                    break
            sound = sound and meter.finite()
            if stopped or not sound:
                break
            history.append(EpochResult(epoch, config.epochs, meter.mean(), time.perf_counter() - began))
            training.save([astuple(result) for result in history])
            if on_epoch is not None:
                on_epoch(history[-1])
    classifier.eval()
    return FitResult(tuple(history), time.perf_counter() - began, diverged=not sound)


def _prepared(
    classifier: Classifier,
    loss: nn.Module,
    inputs: Sequence[Array | Tensor],
    features: Floats | None,
    *,
    head: bool,
    device: torch.device,
) -> Floats | None:
    """Put network and loss into the modes of training; the features where they were given or are needed."""
    if features is None and (head or isinstance(loss, FedLASLoss | FedLASPlusLoss)):
        features = predict_logits(classifier, inputs, device=device)[1]
    if isinstance(loss, FedLASLoss | FedLASPlusLoss) and features is not None and len(features) > 1:
        loss.init_statistics(torch.from_numpy(np.abs(features).sum(axis=1, dtype=np.float64)))
    classifier.train(not head)
    loss.train()
    return features


def _trained_parameters(classifier: Classifier, *, head: bool) -> list[nn.Parameter]:
    if head:
        return classifier.head_parameters()
    return [parameter for parameter in classifier.parameters() if parameter.requires_grad]


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, rate: float, clip_norm: float) -> None:
    """One step of the optimiser at a learning rate, the gradient of all parameters clipped to a norm."""
    parameters = []
    for group in optimizer.param_groups:
        group["lr"] = rate
        parameters += group["params"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()


def cosine(peak: float, steps: int) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: from `peak` along a half cosine to 0."""
    return lambda step: 0.5 * peak * (1 + math.cos(math.pi * step / steps))


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Full batches in an epoch; a last partial batch is dropped unless it is the only one."""
    return max(1, num_rows // batch_size)


@torch.no_grad()
def predict_logits(
    classifier: Classifier,
    inputs: Sequence[Array | Tensor],
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> tuple[Floats, Floats]:
    """Logits (N, K) and features (N, D) float32, in evaluation mode; the classifier's mode is put back.

    Raises:
        ValueError: there are no rows, or the arrays have different lengths.
    """
    device = pick_device(device)
    loader = Loader(inputs, device)
    was_training = classifier.training
    classifier.to(device).eval()
    logits, features = [], []
    for _, batch in loader.batches(slice(start, start + batch_size) for start in range(0, len(loader), batch_size)):
        scores, seen = classifier(*batch)
        logits.append(scores.float().cpu().numpy())
        features.append(seen.float().cpu().numpy())
    classifier.train(was_training)
    return np.concatenate(logits), np.concatenate(features)


@torch.no_grad()
def head_logits(
    classifier: Classifier, features: Floats, *, batch_size: int = 256, device: torch.device | str | None = None
) -> Floats:
    """Logits (N, K) of a classifier's head for features (N, D): what `predict_logits` says, without the body."""
    device = pick_device(device)
    classifier.to(device)
    batches = torch.from_numpy(features).split(batch_size)
    return np.concatenate([classifier.head(batch.to(device)).float().cpu().numpy() for batch in batches])


def pick_device(device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """What `fit` and `predict_logits` run on here, for people."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


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
