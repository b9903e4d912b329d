"""The setup of a race: what it is given, from which all follows that comes out, but for what a clock decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedlas.classifier import Classifier
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext, Rows, TrainingRows
from fedlas.race.outputs import SplitOutputs
from fedlas.race.progress import ProgressReporter
from fedlas.race.record import Record
from fedlas.race.scoring import post_hoc_names
from fedlas.race.selection import CalibratorSelector
from fedlas.race.time_budget import TimeBudget

#: One calibrator that reads features may take this share of the budget, and so many seconds whatever the budget is.
_SHARE_FOR_FEATURES, _LEAST_FOR_FEATURES = 0.1, 2.0


def seconds_for_features(budget_seconds: float) -> float:
    """How long one calibrator that reads features may take."""
    return max(_LEAST_FOR_FEATURES, _SHARE_FOR_FEATURES * budget_seconds)


@dataclass(frozen=True, kw_only=True)
class RaceSetup:
    """What a race is given: the parameters of `fedlas.race.run_race`, which explains them."""

    classifier: Classifier
    training: TrainingRows | None
    calibration: Rows
    candidates: Sequence[Candidate]
    budget_seconds: float
    max_accuracy_drop: float = 0.005
    max_cost_factor: float = 1.0
    seed: int = 0
    task: str = "multiclass"
    groups: ArrayLike | None = None
    calibrators: Sequence[str] | None = None
    calibration_weights: NDArray[np.float64] | None = None
    outputs: SplitOutputs | None = None
    device: torch.device | str | None = None

    def settings(self) -> dict[str, Any]:
        """What tells this race from others of the same files; what was begun with other settings is not used."""
        return {
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "rows": [0 if self.training is None else len(self.training), len(self.calibration[1])],
            "calibrators": None if self.calibrators is None else list(self.calibrators),
            "seed": self.seed,
            "budget_seconds": self.budget_seconds,
            "max_accuracy_drop": self.max_accuracy_drop,
            "max_cost_factor": self.max_cost_factor,
        }

    def context(self, budget: TimeBudget, record: Record, reporter: ProgressReporter) -> RaceContext:
        """What the parts of the race are given; the network's outputs are computed where they are not at hand."""
        outputs = self.outputs
        if outputs is None:
            outputs = SplitOutputs(self.classifier, self.calibration[0], split="calibration", device=self.device)
        return RaceContext(
            self.classifier,
            self.training,
            self.calibration,
            outputs,
            self._selector(outputs),
            budget,
            record,
            reporter,
            self.seed,
            self.device,
        )

    def _selector(self, outputs: SplitOutputs) -> CalibratorSelector:
        logits, targets = outputs.logits, self.calibration[1]
        return CalibratorSelector(
            targets,
            names=tuple(self.calibrators or post_hoc_names(logits.shape[1], len(targets), self.task)),
            reads_features=self.calibrators is None,
            groups=self.groups,
            weights=self.calibration_weights,
            seed=self.seed,
            base_correct=logits.argmax(axis=1) == targets,
            max_accuracy_drop=self.max_accuracy_drop,
            seconds=seconds_for_features(self.budget_seconds),
        )
