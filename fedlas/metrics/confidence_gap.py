"""The confidence gap: what a classifier says in the mean, minus how often it is right, with its standard error.

A calibrator is fitted on rows whose chance it keeps: a correct temperature that was fitted on 1,000 rows is off by
about a point on all others. An error that knows the test rows alone accuses it too often.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.figures import ConfidenceGap
from fedlas.metrics.calibration_error import top_label
from fedlas.metrics.statistics import Floats, check_groups, check_rows, row_shares, unit_sums

#: A gap of more standard errors than this is more than chance explains: of calibrated models 4.6 % have one.
#: Two splits are apart beyond chance where as unlikely as this many standard errors of a normal distribution.
STANDARD_ERRORS_APART = 3.0


def confidence_gap(
    probs: ArrayLike, targets: ArrayLike, *, groups: ArrayLike | None = None, fitted_units: float | None = None
) -> ConfidenceGap:
    """The gap of the top label on test rows, and √(v/n_calibration + v/n_test), its standard error.

    v is the variance of confidence − [ŷ = y] among rows, and at least that of independent rows that are right as often
    as they say. Where rows belong to groups, v is that of whole groups, and both n count groups.

    Args:
        groups: labels (N,) of rows that depend on each other.
        fitted_units: n_calibration, the rows or groups that the model's calibrator was fitted on
            (`effective_units`, where they have weights); None of a model that was fitted on none.

    Raises:
        ValueError: as `fedlas.metrics.accuracy`, or groups are not (N,).

    >>> sure = [[0.9, 0.1]] * 100, [0] * 80 + [1] * 20
    >>> alone = confidence_gap(*sure)
    >>> round(alone.gap, 3), round(alone.standard_error, 3), alone.beyond_chance  # 0.4 / √99
    (0.1, 0.04, True)
    >>> fitted = confidence_gap(*sure, fitted_units=50)
    >>> round(fitted.standard_error, 3), fitted.beyond_chance  # 0.04 · √(1 + 100 / 50)
    (0.07, False)
    """
    return top_label_gap(*top_label(*check_rows(probs, targets)), groups=groups, fitted_units=fitted_units)


def top_label_gap(
    confidences: Floats,
    correct: Floats,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    fitted_units: float | None = None,
) -> ConfidenceGap:
    """`confidence_gap` of confidences (N,) that are right or not (N,), weighted by `weights` (N,)."""
    shares = row_shares(weights, len(confidences))
    says, right = (float(np.average(values, weights=shares)) for values in (confidences, correct))
    parts = unit_sums(shares * (confidences - correct - (says - right)), groups)
    drawn = float(shares**2 @ (confidences * (1 - confidences)))
    variance = max(float(parts @ parts) * len(parts) / max(len(parts) - 1, 1), drawn)
    if fitted_units is not None:
        variance *= 1 + effective_units(len(shares), groups=groups, weights=weights) / fitted_units
    return ConfidenceGap(
        mean_confidence=says, accuracy=right, gap=says - right, standard_error=sqrt(variance), num_rows=len(shares)
    )


def effective_units(num_rows: int, *, groups: ArrayLike | None = None, weights: ArrayLike | None = None) -> float:
    """How many equal rows or groups would vary as little in the mean as these: 1 / Σ share² (Kish 1965).

    >>> effective_units(4), effective_units(4, groups=["a", "a", "b", "b"]), effective_units(3, weights=[2, 1, 1])
    (4.0, 2.0, 2.6666666666666665)
    """
    shares = unit_sums(row_shares(weights, num_rows), groups)
    return 1 / float(shares @ shares)


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
        """Accuracy of rows (N,) that are right or not, in groups (N,) that vary together, weighted by `weights` (N,).

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
        """True where the two differ beyond chance, by Student's t with the degrees of freedom of the smaller one.

        Splits of one unit each tell nothing of how units vary, so they are never apart.
        """
        freedom = min(self.num_units, other.num_units) - 1
        if freedom < 1:
            return False
        from scipy.special import ndtr, stdtrit  # `scipy.stats` would delay the start of every process by half a second

        limit = float(stdtrit(freedom, ndtr(STANDARD_ERRORS_APART)))
        return abs(self.value - other.value) >= limit * hypot(self.error, other.error)
