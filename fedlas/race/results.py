"""Results of a race: those of each candidate, and the finalists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import Calibrator, softmax
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.contract.events import CandidateEnded
from fedlas.data.dataset import Array
from fedlas.documents import as_json

if TYPE_CHECKING:
    import torch

    from fedlas.classifier import Classifier

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
#: Hyperparameters by name; a network that was made of others has their names, weights and cost.
Settings: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class CandidateResult:
    """One candidate on the calibration rows.

    Attributes:
        scope: `all`, `head` or `none` (post-hoc).
        calibration: after its calibrator and out-of-fold, None where it was not trained to the end.
        status: `finished`, `skipped` (budget), `eliminated` (not among the best of the first folds, of which
            alone its scores are), `dropped` (accuracy guard) or `diverged`.
    """

    name: str
    method: str
    hyperparameters: Settings
    scope: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    calibration: Mapping[str, float] | None = None
    calibrator: Calibrator | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields of a `CandidateSummary`, which are equal in every run of a race: the seconds are left out."""
        one = self.calibrator
        return {
            "name": self.name,
            "method": self.method,
            "hyperparameters": self.hyperparameters,
            "scope": self.scope,
            "status": self.status,
            "reason": self.reason,
            "calibration": self.calibration,
            "calibrator": None if one is None else {"name": one.name, "parameters": shown_parameters(one)},
        }

    @property
    def ended(self) -> CandidateEnded:
        """The data of the event that reports it."""
        found = as_json({**self.as_dict(), "seconds": round(self.seconds, 3)})
        return CandidateEnded.model_validate({name: found[name] for name in CandidateEnded.model_fields})


@dataclass(frozen=True)
class FedLASDiagnostics:
    """FedLAS on calibration rows that its networks have not seen, (N,) each; the norms are L1, the gates signs."""

    feature_norms: Doubles
    epsilon: Doubles
    gate: Doubles
    gate_before: Doubles
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class Finalist:
    """A network with its calibrator, scored on calibration rows and not yet judged.

    Attributes:
        held_out: calibrated logits (N, K) of the calibration rows, out-of-fold: no row is seen by its own network or
            calibrator.
        features: (N, D) of the calibration rows under this network.
        cost_factor: multiplications per row, as a multiple of the uploaded network's.
        diagnostics: of a network that was trained with FedLAS or FedLAS+.
        out_of_fold_logits: (N, K) of the calibration rows by the fold networks of a refit, without a calibrator.
    """

    classifier: Classifier
    calibrator: Calibrator
    result: CandidateResult
    held_out: Doubles
    features: Floats
    cost_factor: float = 1.0
    diagnostics: FedLASDiagnostics | None = None
    out_of_fold_logits: Floats | None = None

    def probs(self, inputs: Sequence[Array], *, device: torch.device | str | None = None) -> Doubles:
        from fedlas.training.fit import predict_logits

        logits, features = predict_logits(self.classifier, inputs, device=device)
        return softmax(self.calibrator(logits, features))


@dataclass(frozen=True)
class RaceResult:
    """All candidates, and at most one finalist of each kind.

    Attributes:
        temperature: the plain temperature on the uploaded model, which every report shows.
        finalists: by the names of the gate: `post_hoc`, the uploaded model with the pool of calibrators; behind it,
            where it may move labels, `same_labels`, with a temperature; `trained`, the best candidate trained on all
            rows; and `average`, the pool of uploaded model and refits, where it may cost that much.
        base_logits: (N, K) of the uploaded model on the calibration rows.
        diagnostics: of the trained finalist if it is FedLAS, else of the best FedLAS candidate.
        out_of_fold: calibrated logits (N, K) of the calibration rows, cross-fitted, by `uploaded`, `temperature` and
            finalist.
        by_method: the same of the best candidate of each method, with a temperature, on `compared_rows` (M,): indices
            of the calibration rows of the folds that all candidates ran.
    """

    candidates: tuple[CandidateResult, ...]
    temperature: Calibrator
    finalists: Mapping[str, Finalist]
    base_logits: Floats
    notes: tuple[str, ...] = field(default=())
    diagnostics: FedLASDiagnostics | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    out_of_fold: Mapping[str, Doubles] = field(default_factory=dict)
    by_method: Mapping[str, Doubles] = field(default_factory=dict)
    compared_rows: NDArray[np.int64] = field(default_factory=lambda: np.arange(0))

    @property
    def post_hoc(self) -> Finalist:
        return self.finalists["post_hoc"]
