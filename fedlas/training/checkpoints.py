"""Checkpoints: the state of a training at an epoch's end, taken, put back, written and read."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from fedlas.classifier import Classifier
from fedlas.training.optimizers import Optimizer

State: TypeAlias = dict[str, Any]
Epochs: TypeAlias = list[tuple[Any, ...]]

_LOG = logging.getLogger("fedlas.training.checkpoints")


class Checkpoints(Protocol):
    """Saved states of a training, with which it outlives its process."""

    def last(self) -> State | None:
        """The state to go on from: of a training with the same arguments."""

    def save(self, state: Callable[[], State]) -> None:
        """Called at each epoch's end; `state()` holds the training's own tensors: write or copy them at once."""


class Training:
    """All that an epoch changes: modules with their buffers, the optimiser, the order of the rows, random numbers.

    The position in the schedule is the number of epochs that are over.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizer: Optimizer,
        seed: int,
        device: torch.device,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._modules, self.optimizer, self.device, self._checkpoints = modules, optimizer, device, checkpoints
        self.order = torch.Generator().manual_seed(seed)
        self._seed = seed
        self._begun = [{name: tensor.to("cpu", copy=True) for name, tensor in m.state_dict().items()} for m in modules]

    def restart(self) -> None:
        """Put back what was there before the first step."""
        for module, begun in zip(self._modules, self._begun, strict=True):
            module.load_state_dict(begun)
        self.optimizer.state.clear()
        self.order.manual_seed(self._seed)

    def resume(self) -> Epochs:
        """Put back the last state and return the epochs that are over: none where there is no state, or one of
        something else, which changes nothing."""
        saved = self._checkpoints.last() if self._checkpoints is not None else None
        if saved is None:
            return []
        untouched = copy.deepcopy(self._state([]))
        try:
            return self._put_back(saved)
        except Exception as error:  # whatever the state of something else runs into
            _LOG.warning("a saved state does not fit, training begins anew: %s: %s", type(error).__name__, error)
            return self._put_back(untouched)

    def save(self, epochs: Epochs) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save(lambda: self._state(epochs))

    def _state(self, epochs: Epochs) -> State:
        return {
            "modules": [module.state_dict() for module in self._modules],
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "epochs": list(epochs),
        }

    def _put_back(self, state: State) -> Epochs:
        for module, saved in zip(self._modules, state["modules"], strict=True):
            module.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["device_random"] is not None:
            torch.cuda.set_rng_state(state["device_random"], self.device)
        return [tuple(epoch) for epoch in state["epochs"]]


def trained_part(classifier: Classifier, scope: str) -> nn.Module:
    """The part of a classifier that a training of this scope changes: all of it, or the weights of its `head`."""
    return nn.ParameterList(classifier.head_parameters()) if scope == "head" else classifier


def write_state(path: Path, state: State) -> None:
    """Write tensors and plain values so that `path` is there as a whole or not at all, also if the process is killed.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing is left of it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
        os.replace(partial, path)
    except RuntimeError as error:  # PyTorch's own words for a disk that takes no more
        raise OSError(f"{path.name} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def read_state(path: Path) -> State | None:
    """Read the state of `write_state`, mapped from the file; None, and a line in the log, where it cannot be read.

    Only tensors and plain values are read; no code of the file is run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged file runs into
        _LOG.warning("%s cannot be read and is ignored: %s", path.name, type(error).__name__)
        return None
    return state if isinstance(state, dict) else None
