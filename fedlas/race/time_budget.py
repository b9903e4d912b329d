"""The time budget of a race: how long a step takes, as measured, and what still fits."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.losses import CrossEntropyLoss
from fedlas.race.outputs import SplitOutputs
from fedlas.race.record import Record
from fedlas.race.results import Floats
from fedlas.training.fit import fit
from fedlas.training.loop import TrainConfig, steps_per_epoch

#: Estimates are stretched by this, since other work shares the machine.
_CAUTION = 1.1
#: A candidate that started in time may overrun the budget by this share of it before it is stopped.
_GRACE = 0.07
#: A measurement shorter than this says nothing yet; a longer one is made.
_LONG_ENOUGH = 0.1


class BudgetExceeded(Exception):
    """A candidate runs so much slower than measured that it would end long after the budget."""


class TimeBudget:
    """Seconds since the job began, and measured speeds, which a later attempt takes over from the record."""

    def __init__(self, budget_seconds: float, record: Record | None = None) -> None:
        self._budget = budget_seconds
        self._record = record or Record()
        self._row_seconds = 0.0
        #: Seconds that are kept for what comes after all trainings.
        self.reserve = 0.0

    @property
    def longest(self) -> float:
        """Seconds from now by which the last training ends."""
        return self.remaining() - self.reserve + _GRACE * self._budget

    def remaining(self) -> float:
        return self._budget - self._record.elapsed()

    def for_trainings(self, pace: float | None) -> float:
        """Planned seconds of trainings that still fit; `pace` is how much longer earlier ones took than planned."""
        return (self.remaining() - self.reserve) / (_CAUTION * pace if pace else 1.0)

    def fits(self, seconds: float) -> bool:
        """Whether so many more seconds of training end not long after the budget."""
        return seconds <= self.longest

    def check(self, share: float, seconds: float, *, planned: float = 0.0, after: float = 0.0) -> None:
        """Raise BudgetExceeded where a training of which a share took so long would end long after the budget.

        Args:
            planned: seconds that all of it was to take.
            after: seconds that must be left then, as they were planned: more where it is slower than planned, and less
                where it is faster.
        """
        slower = seconds / share / planned if planned else 1.0
        to_come = seconds * (1 - share) / share + slower * after
        if to_come > 0 and not self.fits(to_come):
            raise BudgetExceeded

    def note_speed(self, outputs: SplitOutputs) -> None:
        """Take the time of a prediction from a pass over a split."""
        self._row_seconds = self._record.decided("seconds per row", lambda: outputs.seconds_per_row)

    def prediction_seconds(self, num_rows: int) -> float:
        """How long a pass over so many rows takes."""
        return _CAUTION * num_rows * self._row_seconds

    def step_seconds(
        self,
        classifier: Classifier,
        inputs: Sequence[Array],
        targets: NDArray[np.int64],
        config: TrainConfig,
        *,
        features: Floats | None,
        device: torch.device | str | None,
    ) -> float:
        """How long one step of `fit` takes, from a few on a copy, measured once per scope, optimiser and batch size."""
        seconds: float = self._record.decided(
            f"seconds per step, {config.scope}, {config.optimizer}, batches of {config.batch_size}",
            lambda: _measured_step(copy.deepcopy(classifier), inputs, targets, config, features, device),
        )
        return _CAUTION * seconds


def _measured_step(
    network: Classifier,
    inputs: Sequence[Array],
    targets: NDArray[np.int64],
    config: TrainConfig,
    features: Floats | None,
    device: torch.device | str | None,
) -> float:
    """Seconds of one step, infinite where one does not fit into the device's memory.

    The first epoch of the measurement warms up and is not counted.
    """
    for steps in (1, 10):
        rows = slice(0, steps * config.batch_size)
        short = replace(config, epochs=2, learning_rate=1e-6)
        part = None if features is None else features[rows]
        try:
            done = fit(
                network,
                CrossEntropyLoss(),
                [array[rows] for array in inputs],
                targets[rows],
                short,
                device=device,
                features=part,
            )
        except torch.OutOfMemoryError:
            return math.inf
        if done.diverged:
            return 0.0  # the candidates will say so themselves
        second = done.history[1].seconds - done.history[0].seconds
        if second > _LONG_ENOUGH:
            break
    return second / steps_per_epoch(len(targets[rows]), config.batch_size)
