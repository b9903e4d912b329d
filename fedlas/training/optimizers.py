"""Optimisers: SGD with momentum and AdamW, which are PyTorch's own step functions and what they remember.

The classes of `torch.optim` take the same steps, but the first of them loads PyTorch's compiler, and with that SymPy,
pandas and scikit-learn where they are installed: more than a second of computing in every process that trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Memory = dict[str, Tensor]


@dataclass(frozen=True)
class ParameterGroup:
    parameters: Sequence[Tensor]
    weight_decay: float = 0.0


class Optimizer(ABC):
    """Steps down the gradients of parameters."""

    #: The names in what is remembered; all but `step`, a number, have the shape of their parameter.
    _REMEMBERED: ClassVar[tuple[str, ...]]

    def __init__(self, groups: Sequence[ParameterGroup]) -> None:
        self.groups = tuple(groups)
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        self.state: dict[Tensor, Memory] = {}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step at a learning rate; parameters without a gradient stay as they are."""
        for group in self.groups:
            moved = [(p, p.grad) for p in group.parameters if p.grad is not None]
            if moved:
                self._step([p for p, _ in moved], [grad for _, grad in moved], rate, group.weight_decay)

    @abstractmethod
    def _step(self, parameters: list[Tensor], gradients: list[Tensor], rate: float, weight_decay: float) -> None:
        """Move parameters and what is remembered of them."""

    def state_dict(self) -> dict[int, Memory]:
        """State by the places of the parameters; the tensors are those that the next step changes."""
        return {place: dict(self.state[p]) for place, p in enumerate(self.parameters) if p in self.state}

    def load_state_dict(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from a copy of what another one of the same parameters remembered.

        Raises:
            ValueError, IndexError: it is that of something else.
        """
        self.state = {
            self.parameters[place]: self._copied(self.parameters[place], memory) for place, memory in state.items()
        }

    def _copied(self, parameter: Tensor, memory: Mapping[str, Tensor]) -> Memory:
        if set(memory) != set(self._REMEMBERED):
            raise ValueError(f"{type(self).__name__} remembers {self._REMEMBERED}, got {tuple(memory)}")
        copied = {}
        for name, value in memory.items():
            shape = torch.Size() if name == "step" else parameter.shape
            if value.shape != shape:
                raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(value.shape)}")
            copied[name] = value.clone() if name == "step" else value.to(parameter, copy=True)
        return copied


class SGD(Optimizer):
    _REMEMBERED = ("momentum_buffer",)

    def __init__(self, groups: Sequence[ParameterGroup], momentum: float = 0.0) -> None:
        super().__init__(groups)
        self.momentum = momentum

    def _step(self, parameters: list[Tensor], gradients: list[Tensor], rate: float, weight_decay: float) -> None:
        buffers = [self.state[p]["momentum_buffer"] if p in self.state else None for p in parameters]
        sgd(
            parameters,
            gradients,
            buffers,
            weight_decay=weight_decay,
            momentum=self.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        # The function has put new buffers into the list.
        self.state.update(
            {p: {"momentum_buffer": b} for p, b in zip(parameters, buffers, strict=True) if b is not None}
        )


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), with its authors' numbers."""

    _REMEMBERED = ("step", "exp_avg", "exp_avg_sq")

    def _step(self, parameters: list[Tensor], gradients: list[Tensor], rate: float, weight_decay: float) -> None:
        for p in parameters:
            if p not in self.state:
                zeros = {
                    name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in self._REMEMBERED[1:]
                }
                self.state[p] = {"step": torch.tensor(0.0, dtype=torch.float32), **zeros}
        steps, means, squares = ([self.state[p][name] for p in parameters] for name in self._REMEMBERED)
        adamw(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )
