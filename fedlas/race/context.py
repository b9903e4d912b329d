"""The context of a race: what all of its parts are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.race.outputs import SplitOutputs
from fedlas.race.progress import ProgressReporter
from fedlas.race.record import Record
from fedlas.race.scoring import make_folds
from fedlas.race.selection import CalibratorSelector
from fedlas.race.time_budget import TimeBudget

Integers: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = tuple[Sequence[Array], Integers]

#: Three folds: with two a fold network sees half of the fresh rows and undersells the refit, five are dearer and no
#: better (NLL −17.0, −17.2, −17.1 % against a temperature with 2, 3 and 5 folds on ten tables).
NUM_FOLDS = 3


@dataclass(frozen=True)
class TrainingRows:
    """Train and calibration rows in one, of which the calibration rows take turns in being left out.

    Attributes:
        inputs: one array per model input, the first dimension is N.
        targets: class indices (N,).
        calibration: the places (M,) of the calibration rows among them, in the order of their split.
        weights: sampling weights (N,), None where all rows count the same.
    """

    inputs: Sequence[Array]
    targets: Integers
    calibration: Integers
    weights: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        train: Rows | None,
        calibration: Rows,
        *,
        train_weights: NDArray[np.float64] | None = None,
        calibration_weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Rows that lie apart, copied one behind the other.

        >>> rows = TrainingRows.of(([np.zeros((2, 3))], np.array([0, 1])), ([np.ones((1, 3))], np.array([1])))
        >>> rows.inputs[0].shape, rows.targets.tolist(), rows.calibration.tolist()
        ((3, 3), [0, 1, 1], [2])
        """
        if train is None or len(train[1]) == 0:
            return cls(calibration[0], calibration[1], np.arange(len(calibration[1])), calibration_weights)
        inputs = [np.concatenate(pair) for pair in zip(train[0], calibration[0], strict=True)]
        first, second = len(train[1]), len(calibration[1])
        weights = None
        if train_weights is not None or calibration_weights is not None:
            given = ((train_weights, first), (calibration_weights, second))
            weights = np.concatenate([np.ones(count) if one is None else one for one, count in given])
        return cls(inputs, np.concatenate([train[1], calibration[1]]), first + np.arange(second), weights)

    def __len__(self) -> int:
        return len(self.targets)

    def without(self, left_out: Integers) -> Integers:
        """The places of all rows but these calibration rows (indices into the split)."""
        return np.delete(np.arange(len(self)), self.calibration[left_out])


@dataclass(frozen=True)
class RaceContext:
    """The uploaded network, its rows, and what measures, records and reports the race.

    Attributes:
        training: None where nothing is to be trained.
        outputs: of the uploaded network on the calibration rows.
    """

    classifier: Classifier
    training: TrainingRows | None
    calibration: Rows
    outputs: SplitOutputs
    selector: CalibratorSelector
    budget: TimeBudget
    record: Record
    reporter: ProgressReporter
    seed: int = 0
    device: torch.device | str | None = None

    def folds(self, number: int = NUM_FOLDS) -> list[Integers]:
        """Indices of the calibration rows of each fold: groups stay whole, classes are spread evenly."""
        return make_folds(self.calibration[1], groups=self.selector.groups, seed=self.seed, num_folds=number)
