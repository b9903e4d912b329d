"""The context of a race: what all of its parts are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.race.outputs import SplitOutputs
from fedlas.race.progress import ProgressReporter
from fedlas.race.record import Record
from fedlas.race.selection import CalibratorSelector
from fedlas.race.time_budget import TimeBudget

Rows: TypeAlias = tuple[Sequence[Array], NDArray[np.int64]]


@dataclass(frozen=True)
class RaceContext:
    """The uploaded network, its rows, and what measures, records and reports the race.

    Attributes:
        train: None where nothing is to be trained.
        outputs: of the uploaded network on the calibration rows.
        weights: sampling weights (N,) of the train rows.
    """

    classifier: Classifier
    train: Rows | None
    calibration: Rows
    outputs: SplitOutputs
    selector: CalibratorSelector
    budget: TimeBudget
    record: Record
    reporter: ProgressReporter
    seed: int = 0
    device: torch.device | str | None = None
    weights: NDArray[np.float64] | None = None
