"""Selection on calibration rows: calibrators are fitted and compared by cross-fitting, candidates ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators import CALIBRATORS
from fedlas.calibrators.feature_map import MAX_PRODUCT, cross_fit_features
from fedlas.race.results import CandidateResult, Doubles, Floats, Scores
from fedlas.race.scoring import (
    STANDARD_ERRORS,
    CrossFitted,
    clearly_positive,
    fit_calibrator,
    group_codes,
    make_folds,
    row_nll,
    score,
)

#: The map of the features has so many parameters that luck finds something in 14 % of sets of pure noise at one.
FEATURES_STANDARD_ERRORS = 2.0
#: With fewer rows than this a map of the features cannot be cross-fitted sensibly.
_MIN_ROWS = 200
_FINE_FOLDS = 10
#: From so many on, four fifths of them teach a map nearly all it can learn: finer folds only take time.
_MANY_ROWS = 2000
#: Seconds on one core that such a map takes per row, class and (feature + 40): measured 0.5 to 1.5 · 10⁻⁷.
_SECONDS, _PER_CLASS = 1.5e-7, 40


@dataclass
class CalibratorSelector:
    """Calibration rows: their targets (N,), groups, and which calibrators may compete.

    A calibrator that reads features competes only where fitting it takes no more than about `seconds`, by an estimate
    that no budget enters, so that a seed gives the same race on every machine.
    """

    targets: NDArray[np.int64]
    names: Sequence[str]
    reads_features: bool
    groups: ArrayLike | None = None
    seed: int = 0
    base_accuracy: float = 0.0
    max_accuracy_drop: float = 1.0
    seconds: float = float("inf")

    @property
    def min_accuracy(self) -> float:
        """Accuracies are multiples of 1/N: the tiny term keeps a drop of exactly the limit on the right side."""
        return self.base_accuracy - self.max_accuracy_drop - 1e-9

    @cached_property
    def folds(self) -> list[NDArray[np.int64]]:
        return make_folds(self.targets, groups=self.groups, seed=self.seed)

    @cached_property
    def fine_folds(self) -> list[NDArray[np.int64]]:
        """Twice as many, for maps that learn much from few more rows."""
        return make_folds(self.targets, groups=self.groups, seed=self.seed, num_folds=_FINE_FOLDS)

    @cached_property
    def _clusters(self) -> NDArray[np.int64]:
        """Groups as numbers 0, 1, …; every row its own where there are none, or only one."""
        codes = group_codes(self.groups, len(self.targets))
        return codes if codes.max() else np.arange(len(codes))

    def fit_simplest(self, logits: Floats) -> CrossFitted:
        """The simplest calibrator, which every candidate gets; the best ones get a selected one later."""
        return self._fit(logits, self.names[:1])

    def calibrate(self, logits: Floats | Doubles, features: Floats | None = None) -> CrossFitted:
        """The best calibrator of the logits alone, or of the features too where they are given and clearly help."""
        plain = self._fit(logits, self.names)
        if features is None or not self._affords(logits, features):
            return plain
        scores = np.asarray(logits, np.float64)
        fine_folds = self.fine_folds if len(self.targets) < _MANY_ROWS else None
        richer = CrossFitted(*cross_fit_features(scores, features, self.targets, self.folds, fine_folds=fine_folds))
        accurate = self.score(richer)["accuracy"] >= self.min_accuracy
        better = self.beats(richer.held_out, plain.held_out, standard_errors=FEATURES_STANDARD_ERRORS)
        return richer if accurate and better else plain

    def _fit(self, logits: Floats | Doubles, names: Sequence[str]) -> CrossFitted:
        return fit_calibrator(logits, self.targets, names, self.min_accuracy, seed=self.seed, groups=self.groups)

    def keeping_labels(self) -> CalibratorSelector | None:
        """A selector among those calibrators alone that keep the order of the classes, where there are any."""
        names = [name for name in self.names if CALIBRATORS[name].keeps_order]
        return replace(self, names=names, reads_features=False) if names else None

    def post_hoc(self, calibrated: CrossFitted, *, seconds: float = 0.0) -> CandidateResult:
        """What the uploaded network with this calibrator came to, which took so many seconds."""
        name = calibrated.calibrator.name
        method = "temperature" if name == "temperature" else "post_hoc"
        result = self.scored(
            CandidateResult(f"uploaded + {name}", method, {}, "none", "finished", "", seconds), calibrated
        )
        return replace(result, status="finished", reason="")  # nothing is left if the upload itself is dropped

    def scored(self, result: CandidateResult, calibrated: CrossFitted) -> CandidateResult:
        """The result with this calibrator and its scores, and whether its accuracy drops it."""
        scores = self.score(calibrated)
        reason = self.too_inaccurate(scores["accuracy"])
        status = "dropped" if reason else "finished"
        return replace(result, status=status, reason=reason, calibration=scores, calibrator=calibrated.calibrator)

    def score(self, calibrated: CrossFitted) -> Scores:
        """The cross-fitted scores."""
        return score(calibrated.held_out, self.targets)

    def too_inaccurate(self, accuracy: float) -> str:
        """Why a candidate with this accuracy is dropped, or an empty text."""
        if accuracy >= self.min_accuracy:
            return ""
        drop = 100 * (self.base_accuracy - accuracy)
        return f"its accuracy on the calibration rows is {drop:.2f} points under the uploaded model's"

    def beats(self, held_out: Doubles, rival: Doubles, *, standard_errors: float = STANDARD_ERRORS) -> bool:
        """Whether the NLL is lower by more than so many standard errors of the paired difference.

        Rows of a group count as one in the error, unless all rows are one group.
        """
        gains = self.row_nll(rival) - self.row_nll(held_out)
        return clearly_positive(gains, self._clusters, standard_errors)

    def row_nll(self, held_out: Doubles) -> Doubles:
        return row_nll(held_out, self.targets)

    def _affords(self, logits: Floats | Doubles, features: Floats) -> bool:
        enough = len(self.targets) >= _MIN_ROWS and np.isfinite(features).all()
        seconds = _SECONDS * logits.size * (features.shape[1] + _PER_CLASS)
        in_time = logits.size * features.shape[1] <= MAX_PRODUCT and seconds <= self.seconds
        return bool(self.reads_features and enough and in_time)
