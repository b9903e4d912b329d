"""Out-of-fold scores: what calibration rows say of networks and calibrators that have not seen them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators import softmax
from fedlas.metrics._checks import Floats
from fedlas.metrics.binning import top_label
from fedlas.metrics.bootstrap import Estimate
from fedlas.metrics.clustered_mean import clustered_mean
from fedlas.metrics.confidence_gap import ConfidenceGap, top_label_gap
from fedlas.metrics.proper_scores import row_scores


@dataclass(frozen=True)
class OutOfFold:
    """NLL (N,) of the calibration rows, each under a network and a calibrator that were fitted without it.

    Attributes:
        by_part: by `uploaded`, `temperature` and the names of the finalists.
        top_labels: confidences (N,) and whether they are right (N,), out of fold, by the same names.
        by_method: of the best candidate of each training method, with a temperature, on `compared_rows`.
        groups, weights: (N,) of the rows, if there are any.
        compared_rows: indices (M,) of the rows of the folds that all candidates ran; None is all rows.
    """

    by_part: Mapping[str, Floats]
    by_method: Mapping[str, Floats] = field(default_factory=dict)
    groups: ArrayLike | None = None
    weights: ArrayLike | None = None
    compared_rows: NDArray[np.int64] | None = None
    top_labels: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)

    @classmethod
    def of(cls, held_out: Mapping[str, ArrayLike], targets: NDArray[np.int64], **others: Any) -> Self:
        """Of calibrated logits (N, K) by part, and the class indices (N,); the others are those of the constructor."""
        probs = {name: softmax(logits) for name, logits in held_out.items()}
        nll = {name: row_scores(one, targets, score="nll") for name, one in probs.items()}
        return cls(nll, top_labels={name: top_label(one, targets) for name, one in probs.items()}, **others)

    def mean(self, values: Floats, confidence_level: float) -> Estimate:
        """Of row values (N,), with its interval."""
        return clustered_mean(values, groups=self.groups, weights=self.weights, confidence_level=confidence_level)

    def gap(self, part: str) -> ConfidenceGap | None:
        """Of a part, in the error of these rows alone: whatever was fitted out of fold saw nearly the same rows."""
        found = self.top_labels.get(part)
        return None if found is None else top_label_gap(*found, groups=self.groups, weights=self.weights)

    def compared_mean(self, values: Floats, confidence_level: float) -> Estimate:
        """Of values (M,) of the compared rows, with its interval."""
        rows = slice(None) if self.compared_rows is None else self.compared_rows
        groups, weights = (None if one is None else np.asarray(one)[rows] for one in (self.groups, self.weights))
        return clustered_mean(values, groups=groups, weights=weights, confidence_level=confidence_level)
