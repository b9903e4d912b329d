"""The context of a race: its network and rows, and what measures, records and reports it.

Network outputs: logits and features of the uploaded network on one split, finite, computed once and shared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.calibrators import softmax
from fedlas.classifier import Classifier
from fedlas.contract.events import CandidateEvent, Progress
from fedlas.data.dataset import Array
from fedlas.errors import BadDataset
from fedlas.observer import Observer
from fedlas.progress import JobProgress
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.record import Record
from fedlas.race.results import CandidateResult, Doubles, Finalist, Floats, make_folds
from fedlas.race.schedule import TimeBudget
from fedlas.training.fit import head_logits, predict_logits


def require_numbers(
    logits: Array, features: Array | None = None, *, split: str, rows: NDArray[np.int64] | None = None
) -> None:
    """Raise unless the model answered every row of `split` with finite logits (N, K) and features (N, D).

    Args:
        rows: where the rows stand in the dataset (N,); without them the first one is counted within its split.

    Raises:
        BadDataset: `non_finite_answers`, with the first row that is broken.

    >>> try:
    ...     require_numbers(np.array([[0.0, 1.0], [np.nan, 2.0]]), split="test")
    ... except BadDataset as error:
    ...     print(error.message.partition(":")[0])
    the model answers row 1 of the split 'test', counted from 0, with nan, which is no number
    """
    for array in (logits, *(() if features is None else (features,))):
        if np.isfinite(array).all():
            continue
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        which = f"row {place[0]} of the split '{split}'" if rows is None else f"row {rows[place[0]]} (in '{split}')"
        raise BadDataset(
            "non_finite_answers",
            f"the model answers {which}, counted from 0, with {array[place]}, which is no number: leave such rows out, "
            "fill missing values as the model was taught to, or send a model that can read them",
        )


class SplitOutputs:
    """The uploaded network's logits (N, K) and features (N, D) on the rows of one split.

    Args:
        rows: where these rows stand in the owner's file (N,), for errors; else they are counted within the split.

    Raises:
        BadDataset: `non_finite_answers`.
    """

    logits: Floats
    features: Floats

    def __init__(
        self,
        classifier: Classifier,
        inputs: Sequence[Array],
        *,
        split: str,
        rows: NDArray[np.int64] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._classifier, self._inputs, self._device = classifier, inputs, device
        began = time.perf_counter()
        self.logits, self.features = predict_logits(classifier, inputs, device=device)
        self.seconds_per_row = (time.perf_counter() - began) / len(self.logits)
        require_numbers(self.logits, self.features, split=split, rows=rows)

    def of(self, finalist: Finalist) -> tuple[Floats, Floats]:
        """Logits and features of a finalist: only a network with a body of its own sees the rows again."""
        if finalist.classifier is self._classifier:
            return self.logits, self.features
        if finalist.result.scope == "head":
            return head_logits(finalist.classifier, self.features, device=self._device), self.features
        return predict_logits(finalist.classifier, self._inputs, device=self._device)

    def probs(self, finalist: Finalist) -> Doubles:
        return softmax(finalist.calibrator(*self.of(finalist)))


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
