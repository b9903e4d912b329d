"""The context of a race: its network and rows, and what measures, records and reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.contract.events import CandidateEvent, Progress
from fedlas.data.dataset import Array
from fedlas.observer import Observer
from fedlas.progress import JobProgress
from fedlas.race.outputs import SplitOutputs
from fedlas.race.record import Record
from fedlas.race.results import CandidateResult, make_folds
from fedlas.race.schedule import TimeBudget
from fedlas.race.selection import CalibratorSelector

Integers: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = tuple[Sequence[Array], Integers]
#: Three folds: with two a fold network sees half of the fresh rows and undersells the refit, five are dearer and no
#: better (NLL −17.0, −17.2, −17.1 % against a temperature with 2, 3 and 5 folds on ten tables).
NUM_FOLDS = 3


class ProgressReporter:
    """Reports to the observer of a race."""

    def __init__(self, progress: JobProgress, record: Record, observer: Observer | None = None) -> None:
        self.progress, self._record, self.observer = progress, record, observer or Observer()
        self.candidates = 1

    def report(self, candidate: str, epoch: int, epochs: int) -> None:
        """Report that so many epochs of a training have ended."""
        where = self.progress.position()
        self.observer.on_progress(
            Progress(
                fraction=where.fraction,
                candidate=candidate,
                epoch=epoch,
                epochs=epochs,
                eta_seconds=where.eta_seconds,
            )
        )

    def candidate_ended(self, name: str, result: CandidateResult) -> None:
        """Report a result, once in all attempts at the race, which know it by `name`."""
        ended = CandidateEvent(type="candidate", data=result.ended)
        self._record.once(f"told of {name}", lambda: self.observer.on_event(ended))


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

    def __len__(self) -> int:
        return len(self.targets)

    def without(self, left_out: Integers) -> Integers:
        """The places of all rows but these calibration rows (indices into the split)."""
        return np.delete(np.arange(len(self)), self.calibration[left_out])


@dataclass(frozen=True)
class RaceContext:
    """The uploaded network, its rows, and what measures, records and reports the race."""

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
