"""Out-of-fold scores: what calibration rows say of networks and calibrators that have not seen them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats
from fedlas.metrics.bootstrap import Estimate
from fedlas.metrics.clustered_mean import clustered_mean


@dataclass(frozen=True)
class OutOfFold:
    """NLL (N,) of the calibration rows, each under a network and a calibrator that were fitted without it.

    Attributes:
        by_part: by `uploaded`, `temperature` and the names of the finalists.
        by_method: of the best candidate of each training method that ran all folds, with a temperature.
        groups, weights: (N,) of the rows, if there are any.
    """

    by_part: Mapping[str, Floats]
    by_method: Mapping[str, Floats] = field(default_factory=dict)
    groups: ArrayLike | None = None
    weights: ArrayLike | None = None

    def mean(self, values: Floats, confidence_level: float) -> Estimate:
        """Of row values (N,), with its interval."""
        return clustered_mean(values, groups=self.groups, weights=self.weights, confidence_level=confidence_level)
