"""The course of a candidate through the folds: what its networks say of rows that they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from fedlas.race.candidates import Candidate
from fedlas.race.context import Integers
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.results import CandidateResult, Doubles, FedLASDiagnostics, Floats
from fedlas.race.resume import TrainingOutcome
from fedlas.race.schedule import PlannedCandidate
from fedlas.race.scoring import CrossFitted
from fedlas.race.selection import CalibratorSelector


@dataclass(frozen=True)
class Trial:
    """A candidate that ran all folds: its out-of-fold logits (N, K) and their calibrator.

    Attributes:
        diagnostics: of the fold networks, each on its own fold, where it is FedLAS.
    """

    planned: PlannedCandidate
    candidate: Candidate
    result: CandidateResult
    calibrated: CrossFitted
    logits: Floats
    diagnostics: FedLASDiagnostics | None = None


@dataclass
class FoldCourse:
    """One candidate on its way through the folds.

    Attributes:
        folds: indices of the calibration rows of each fold.
        outcomes: of the folds that were run, by their number.
    """

    planned: PlannedCandidate
    candidate: Candidate
    folds: Sequence[Integers] = ()
    outcomes: dict[int, TrainingOutcome] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"candidate-{self.planned.place + 1:02}"

    def first(self, folds: int) -> Self:
        """The course as it was after so many folds."""
        return replace(self, outcomes={fold: self.outcomes[fold] for fold in range(folds)})

    @property
    def runs_well(self) -> bool:
        """Whether every fold that was run has logits."""
        return all(outcome.logits is not None for outcome in self.outcomes.values())

    @property
    def seconds(self) -> float:
        return sum(outcome.seconds for outcome in self.outcomes.values())

    @property
    def fold_work(self) -> float:
        return self.planned.fold_seconds(self.candidate.epochs or 1, len(self.folds))

    @property
    def refit_work(self) -> float:
        return self.planned.refit_seconds(self.candidate.epochs or 1)

    def training(self, fold: int | None, candidates: int) -> PlannedTraining:
        """The training without this fold, or on all rows, of one of so many candidates."""
        one, place, share = self.candidate, self.planned.place, self.trained_share
        if fold is None:
            return PlannedTraining(one, place, candidates, None, None, self.refit_work, 0.0, share)
        after = (len(self.folds) - fold - 1) * self.fold_work + self.refit_work
        return PlannedTraining(one, place, candidates, fold, len(self.folds), self.fold_work, after, share)

    @property
    def trained_share(self) -> float:
        """The share of a training that is steps, not scoring."""
        whole = self.fold_work if self.folds else self.refit_work
        return 1 - self.planned.scoring_seconds / max(1, len(self.folds)) / whole if whole > 0 else 1.0

    @property
    def rows(self) -> Integers:
        """The calibration rows of the folds that were run, as `logits` has them."""
        return np.concatenate([self.folds[fold] for fold in sorted(self.outcomes)])

    @property
    def logits(self) -> Floats:
        """Out-of-fold logits (M, K)."""
        parts = [self.outcomes[fold].logits for fold in sorted(self.outcomes)]
        return np.concatenate([part for part in parts if part is not None])

    def calibrated(self, selector: CalibratorSelector) -> CrossFitted:
        """What the folds that were run say, with a cross-fitted temperature; in the order of `rows`."""
        return selector.of_rows(self.rows).fit_simplest(self.logits)

    def row_nll(self, selector: CalibratorSelector) -> Doubles:
        """The NLL (M,) of each of `rows` then."""
        return selector.of_rows(self.rows).row_nll(self.calibrated(selector).held_out)

    def nll(self, selector: CalibratorSelector) -> float:
        """Their (weighted) mean NLL."""
        return selector.of_rows(self.rows).nll(self.calibrated(selector).held_out)

    @property
    def diagnostics(self) -> FedLASDiagnostics | None:
        """What FedLAS saw on every fold, in the order of the calibration rows; None where it is another loss."""
        found = [
            vars(self.outcomes[fold].diagnostics) for fold in sorted(self.outcomes) if self.outcomes[fold].diagnostics
        ]
        if not found:
            return None
        order = np.argsort(self.rows)
        return FedLASDiagnostics(**{name: np.concatenate([part[name] for part in found])[order] for name in found[0]})
