"""The computation of a network on a device: its precision, its memory layout, and as much of a batch as fits at once.

On the CPU a network computes as it is. On a card that has bfloat16 the network of a training does so in autocast, with
images channels last, where it can; norms, losses and weights stay in float32, and so do all predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from fedlas.classifier import Classifier
from fedlas.errors import DeviceTooSmall

_LOG = logging.getLogger("fedlas.training")
#: Words of CUDA, cuBLAS and cuDNN for a lack of memory that PyTorch has no class for.
_MEMORY_WORDS = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED", "unable to find an engine to execute")
T = TypeVar("T")
Outputs: TypeAlias = tuple[Tensor, Tensor]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]


def pick_device(device: torch.device | str | None) -> torch.device:
    """The given device, else a card where there is one."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Name of the device that is picked here, for people."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def halved(compute: Callable[[int], T], most_rows: int, device: torch.device) -> T:
    """The result of a computation on so many rows at once, or on half as often as the device's memory asks for it.

    Raises:
        DeviceTooSmall: it does not hold one row.
    """
    while True:
        try:
            return compute(most_rows)
        except RuntimeError as error:
            if not _lacked_memory(error):
                raise
            if most_rows == 1:
                raise _too_small(device) from None
        most_rows //= 2
        _LOG.info("the memory of %s is too small for what was tried; now %d rows at once", device, most_rows)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # pieces of other sizes


def _lacked_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _MEMORY_WORDS)


def _too_small(device: torch.device) -> DeviceTooSmall:
    name, size = str(device), ""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name, size = facts.name, f" with {facts.total_memory / 1024**3:.0f} GiB"
    return DeviceTooSmall(
        f"the memory of {name}{size} does not hold one row of this network; a larger card does, or the CPU "
        '(CUDA_VISIBLE_DEVICES="")'
    )


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions of a card in float32: TF32, their default, keeps 10 bits, and an exported file would differ."""
    names = ("conv", "rnn") if device.type == "cuda" else ()
    kinds: list[Any] = [getattr(torch.backends.cudnn, name) for name in names]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


class TrainingForward:
    """A classifier as a training calls it: logits (N, K) and features (N, D), in float32 where it computes in less.

    Args:
        sample: some rows of each input on the device, with which a network is tried that may compute in bfloat16. One
            that cannot (types that do not mix, a view of what is channels last) or ends in numbers that are not finite
            computes as it is.
        precision: "auto" is bfloat16 on a card that has it.
    """

    def __init__(
        self,
        classifier: Classifier,
        device: torch.device,
        precision: Precision,
        *,
        sample: Callable[[], Sequence[Tensor]],
    ) -> None:
        self._classifier = classifier
        self._autocast = torch.autocast(device.type, torch.bfloat16)
        has_half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.half = precision == "bfloat16" or (precision == "auto" and has_half)
        if self.half and not self._computes(sample()):
            self.half = False
            _lay_out(classifier, torch.contiguous_format)

    def __call__(self, *rows: Tensor) -> Outputs:
        if not self.half:
            return self._classifier(*rows)  # type: ignore[no-any-return]
        with self._autocast:
            logits, features = self._classifier(*map(_channels_last, rows))
        return logits.float(), features.float()

    @torch.no_grad()
    def _computes(self, sample: Sequence[Tensor]) -> bool:
        was_training = self._classifier.training
        _lay_out(self._classifier.eval(), torch.channels_last)
        try:
            return all(bool(torch.isfinite(output).all()) for output in self(*sample))
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, RuntimeError) and _lacked_memory(error):
                raise
            return False
        finally:
            self._classifier.train(was_training)


def _lay_out(classifier: Classifier, memory_format: torch.memory_format) -> None:
    for tensor in (*classifier.parameters(), *classifier.buffers()):
        if tensor.ndim == 4:  # what else `Module.to` would take, it refuses
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


def _channels_last(rows: Tensor) -> Tensor:
    return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows


class BatchGradient:
    """The loss of a batch, and the gradient that it leaves with the parameters, computed on so many rows at once.

    A batch in one part is forward, loss, backward. Several need the memory of one part's activations (Gao et al. 2021,
    arXiv 2101.06983): the outputs of all parts without their graphs, the loss of the whole batch on these, and its
    gradient through each part, which is computed again. That is the gradient of the whole batch but for the order of
    sums, also where a loss sees the batch as a whole, as the statistics of FedLAS do. Only BatchNorm in training sees
    the parts, and dropout draws anew for each.

    Args:
        watch: is given the outputs before the loss, which refuses what is not finite; False ends the training.
    """

    def __init__(self, forward: Callable[..., Outputs], loss: nn.Module, device: torch.device, most_rows: int) -> None:
        self._forward, self._loss, self._most_rows = forward, loss, most_rows
        self._devices = [device] if device.type == "cuda" else []

    def __call__(self, batch: Sequence[Tensor], watch: Callable[..., bool]) -> Tensor | None:
        *rows, targets = batch
        parts = list(zip(*(array.split(self._most_rows) for array in rows), strict=True))
        if len(parts) == 1:
            outputs = self._forward(*rows)
        else:
            # The second pass draws the numbers of the first one.
            with torch.random.fork_rng(self._devices), torch.no_grad():
                logits, features = zip(*(self._forward(*part) for part in parts), strict=True)
            outputs = torch.cat(logits).requires_grad_(), torch.cat(features).requires_grad_()
        if not watch(*outputs):
            return None
        loss: Tensor = self._loss(outputs[0], targets, outputs[1])
        loss.backward()
        if len(parts) > 1:
            self._passed_back(parts, outputs)
        return loss.detach()

    def _passed_back(self, parts: Sequence[Sequence[Tensor]], outputs: Outputs) -> None:
        ends = [grad.split([len(part[0]) for part in parts]) for grad in (o.grad for o in outputs) if grad is not None]
        for part, *gradients in zip(parts, *ends, strict=True):
            torch.autograd.backward(self._forward(*part)[: len(gradients)], gradients)
