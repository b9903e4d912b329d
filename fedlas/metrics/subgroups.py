"""Subgroups: tests and intervals for a part of the rows, a class or a slice.

Where rows belong to groups, the exact tests of independent rows are joined by a normal test whose
draws are whole groups, and the larger p-value counts.
"""

from __future__ import annotations

from math import nan

import numpy as np
from numpy.typing import NDArray

from fedlas.metrics._checks import Floats, Ints
from fedlas.metrics.bootstrap import Estimate
from fedlas.metrics.proportions import chance_of_so_few, chance_of_sum, clustered_z, effective_rows, normal_cdf, wilson

#: Smaller parts are shown but not tested: they would only cost the others power.
MIN_ROWS = 20
#: With fewer groups the normal test of whole groups means nothing.
MIN_GROUPS = 10


def share(values: Floats, groups: Ints | None, confidence_level: float) -> Estimate | None:
    """The share of ones among values (n,) with Wilson's interval, None of nothing; rows of a group count as fewer."""
    if len(values) == 0:
        return None
    low, high = wilson(values.mean(), effective_rows(values, groups), confidence_level)
    return Estimate(float(values.mean()), float(low), float(high))


def gap(confidences: Floats, correct: Floats, groups: Ints | None, confidence_level: float) -> Estimate | None:
    """Mean confidence minus accuracy: positive where overconfident. The confidences are given, what is right is not."""
    right = share(correct, groups, confidence_level)
    if right is None:
        return None
    says = float(confidences.mean())
    return Estimate(says - right.value, says - right.high, says - right.low)


def chance_if_calibrated(confidences: Floats, correct: Floats, groups: Ints | None) -> float:
    """Two-sided p-value of so many right answers if each is right with its confidence; NaN where it is not tested."""
    if not _testable(len(correct), groups):
        return nan
    exact = chance_of_sum(confidences.clip(0, 1), round(float(correct.sum())))
    if groups is None:
        return exact
    z = clustered_z(confidences - correct, groups)
    return exact if z is None else max(exact, 2 * normal_cdf(-abs(z)))


def chance_if_no_worse(correct: Floats, inside: NDArray[np.bool_], groups: Ints | None) -> float:
    """One-sided p-value of so few right answers inside if they are as common as outside; NaN where not tested."""
    size, num_rows = int(inside.sum()), len(correct)
    if size == num_rows or not _testable(size, None if groups is None else groups[inside]):
        return nan
    exact = chance_of_so_few(round(float(correct[inside].sum())), size, round(float(correct.sum())), num_rows)
    if groups is None:
        return exact
    weights = np.where(inside, 1 / size, -1 / (num_rows - size))
    z = clustered_z(weights * (correct - correct.mean()), groups)
    return exact if z is None else max(exact, normal_cdf(z))


def _testable(num_rows: int, groups: Ints | None) -> bool:
    return num_rows >= MIN_ROWS and (groups is None or len(np.unique(groups)) >= MIN_GROUPS)
