"""The loss meter: the mean loss of an epoch and whether all numbers stayed finite, kept on the device."""

from __future__ import annotations

import torch
from torch import Tensor

#: On an accelerator numbers are read every so many steps: reading one waits for all kernels that were launched.
CHECKED_STEPS = 50


class LossMeter:
    """Adds up losses without waiting for them.

    On the CPU every step is checked: reading costs nothing there, and the losses refuse numbers that are not finite.
    """

    def __init__(self, device: torch.device) -> None:
        self._every = 1 if device.type == "cpu" else CHECKED_STEPS
        self._steps = 0
        # float64: the mean does not depend on when it is read.
        self._losses, self._outputs = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))

    @torch.no_grad()
    def watch(self, *outputs: Tensor) -> bool:
        """Take in what a network says; False once a number of the epoch is known not to be finite."""
        for output in outputs:
            self._outputs += output.sum()
        return self._steps % self._every != 0 or self.finite()

    @torch.no_grad()
    def add(self, loss: Tensor) -> bool:
        """Take in the loss of a step; False once a number of the epoch is known not to be finite."""
        self._losses += loss
        self._steps += 1
        return self._steps % self._every != 0 or self.finite()

    def finite(self) -> bool:
        """Whether all numbers of the epoch are finite; waits for the device."""
        return bool(torch.isfinite(self._losses + self._outputs))

    def mean(self) -> float:
        """The mean loss of the steps so far; waits for the device."""
        return float(self._losses) / max(1, self._steps)
