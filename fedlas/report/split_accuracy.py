"""The accuracy on the rows of a split with its standard error, and whether two splits are further apart than chance."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, check_groups
from fedlas.metrics.clustered_mean import row_shares
from fedlas.metrics.confidence_gap import effective_units

#: Two splits are apart beyond chance where as unlikely as this many standard errors of a normal distribution.
STANDARD_ERRORS_APART = 3.0


@dataclass(frozen=True)
class SplitAccuracy:
    """The share of rows that are answered rightly.

    Attributes:
        error: its standard error, over whole groups; never that of exactly 0 or 1, which no finite sample shows.
        num_units: how many rows or groups vary independently; `effective_units` are as many of equal weight.
    """

    value: float
    error: float
    num_units: int
    effective_units: float

    @classmethod
    def of(
        cls, correct: ArrayLike, *, groups: ArrayLike | None = None, weights: ArrayLike | None = None
    ) -> SplitAccuracy:
        """Of rows (N,) that are right or not, in groups (N,) that vary together, weighted by `weights` (N,).

        >>> SplitAccuracy.of([1, 1, 0, 0]).error < SplitAccuracy.of([1, 1, 0, 0], groups=[0, 0, 1, 1]).error
        True
        """
        hits: Floats = np.asarray(correct, dtype=np.float64)
        rows = row_shares(weights, len(hits))
        codes = check_groups(groups, len(hits))
        units = np.arange(len(hits)) if codes is None else codes
        value, count = float(rows @ hits), int(units.max()) + 1
        scatter = np.square(np.bincount(units, rows * (hits - value))).sum() * count / max(count - 1, 1)
        error = sqrt(max(float(scatter), 0.25 / count**2))
        return cls(value, error, count, effective_units(len(hits), groups=groups, weights=weights))

    def interval(self, confidence_level: float) -> tuple[float, float]:
        """Between which accuracies that of all rows lies, by Student's t over whole groups.

        >>> low, high = SplitAccuracy.of([1] * 80 + [0] * 20).interval(0.95)
        >>> round(low, 2), round(high, 2)
        (0.72, 0.88)
        """
        from scipy.special import stdtrit  # loaded with the first report, not with the module

        half = float(stdtrit(max(self.num_units - 1, 1), (1 + confidence_level) / 2)) * self.error
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def is_apart(self, other: SplitAccuracy) -> bool:
        """Whether the two differ beyond chance, by Student's t with the degrees of freedom of the smaller one.

        Splits of one unit each tell nothing of how units vary, so they are never apart.
        """
        freedom = min(self.num_units, other.num_units) - 1
        if freedom < 1:
            return False
        from scipy.special import ndtr, stdtrit  # `scipy.stats` would delay the start of every process by half a second

        limit = float(stdtrit(freedom, ndtr(STANDARD_ERRORS_APART)))
        return abs(self.value - other.value) >= limit * hypot(self.error, other.error)
