"""The confidence gap: what a classifier says in the mean, minus how often it is right, with its standard error.

A calibrator is fitted on rows whose chance it keeps: a correct temperature that was fitted on 1,000 rows is off by
about a point on all others. An error that knows the test rows alone accuses it too often.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, check_rows
from fedlas.metrics.bootstrap import row_shares, unit_sums
from fedlas.metrics.calibration_error import top_label

#: A gap of more standard errors than this is more than chance explains: of calibrated models 4.6 % have one.
MAX_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class ConfidenceGap:
    """Mean confidence beside accuracy; `gap` is the first minus the second, positive where answers are too sure."""

    mean_confidence: float
    accuracy: float
    gap: float
    standard_error: float
    num_rows: int

    @property
    def chance(self) -> float:
        """The largest gap, either way, that chance explains."""
        return MAX_STANDARD_ERRORS * self.standard_error

    @property
    def beyond_chance(self) -> bool:
        """Whether the gap is more than chance explains."""
        return abs(self.gap) > self.chance


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
    return ConfidenceGap(says, right, says - right, sqrt(variance), len(shares))


def effective_units(num_rows: int, *, groups: ArrayLike | None = None, weights: ArrayLike | None = None) -> float:
    """How many equal rows or groups would vary as little in the mean as these: 1 / Σ share² (Kish 1965).

    >>> effective_units(4), effective_units(4, groups=["a", "a", "b", "b"]), effective_units(3, weights=[2, 1, 1])
    (4.0, 2.0, 2.6666666666666665)
    """
    shares = unit_sums(row_shares(weights, num_rows), groups)
    return 1 / float(shares @ shares)
