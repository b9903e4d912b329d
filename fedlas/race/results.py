"""What a race reports while it runs and when it ends; plain records, without training or files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import Calibrator
from fedlas.classifier import Classifier

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class RaceProgress:
    """Where the race stands: candidate and epoch count from 1 (epoch 0: about to start)."""

    candidate: int
    candidates: int
    name: str
    epoch: int
    epochs: int
    fraction: float
    eta_seconds: float | None


@dataclass(frozen=True)
class CandidateResult:
    """One candidate on the calibration rows.

    Attributes:
        scope: `all`, `head` or `none` (post-hoc).
        calibration: `nll, accuracy, brier, ece` after its calibrator, None where it was not trained to the end.
        status: `finished`, `skipped` (budget), `dropped` (accuracy guard) or `diverged`.
    """

    name: str
    method: str
    hyperparameters: dict[str, Any]
    scope: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    calibration: dict[str, float] | None = None
    calibrator: Calibrator | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        calibrator = self.calibrator
        return {
            "name": self.name,
            "method": self.method,
            "hyperparameters": dict(self.hyperparameters),
            "scope": self.scope,
            "status": self.status,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "calibration": self.calibration,
            "calibrator": calibrator and {"name": calibrator.name, "parameters": calibrator.parameters()},
        }


@dataclass(frozen=True)
class Finalist:
    """A network with its calibrator, named on calibration rows and not yet judged."""

    classifier: Classifier
    calibrator: Calibrator
    result: CandidateResult


@dataclass(frozen=True)
class RaceResult:
    """All candidates, and at most one finalist of each kind.

    Attributes:
        temperature: the plain temperature on the uploaded model, which every report shows.
        post_hoc: the uploaded model with its best post-hoc calibrator.
        trained: the best fine-tuned model, None where none beats `post_hoc` on the calibration rows.
        base_logits: (N, K) of the uploaded model on the calibration rows.
    """

    candidates: tuple[CandidateResult, ...]
    temperature: Calibrator
    post_hoc: Finalist
    trained: Finalist | None
    base_logits: Floats
    notes: tuple[str, ...] = field(default=())
