"""Findings of guards that look at many classes: a figure, its limit, and what each class's test may spend.

Rows of one group may depend on each other, so a standard error is that of whole groups: the root of the summed squares
of what each group adds to the figure (the sum of its rows' influences), times √(G/(G − 1)) for G groups. A p-value is
Student's with G − 1 degrees of freedom: the normal one for many rows, cautious for a handful of groups.

The exact sign test (McNemar) of what the rows of a class lost has a level that knows how many classes there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedlas.metrics.betting_intervals import BoundedMean
from fedlas.metrics.statistics import Floats, Ints, ResamplingUnits

#: A class with fewer test rows has no figure of its own.
MIN_CLASS_ROWS = 50
#: One-sided level of a guard over all its classes: 1.64 standard errors where it tests one.
LEVEL = 0.05
#: Cells (rows × classes) of one block: a handful of such float64 arrays take 100 MB.
BLOCK_CELLS = 2_000_000


@dataclass(frozen=True)
class Finding:
    """One figure against its limit, with the class that it belongs to (None: all rows, or several classes).

    `chance` is the one-sided p-value of the figure: where it is not small, a figure beyond the limit passes.
    """

    passed: bool
    value: float
    limit: float
    low: float | None = None
    high: float | None = None
    class_index: int | None = None
    chance: float | None = None


def judged_classes(targets: Ints, num_classes: int) -> Ints:
    """The classes (C,) of at least 50 rows that are not all rows; of two, class 1, which shares its figures with 0.

    >>> judged_classes(np.repeat([0, 1, 2], [60, 10, 50]), 3).tolist()
    [0, 2]
    """
    counts = np.bincount(targets, minlength=num_classes)
    least = 1 if num_classes == 2 else MIN_CLASS_ROWS
    classes: Ints = np.flatnonzero((counts >= least) & (counts < len(targets)))
    return classes[-1:] if num_classes == 2 else classes


def class_blocks(classes: Ints, num_rows: int) -> Iterator[Ints]:
    """The classes in blocks whose columns of all rows fill at most `BLOCK_CELLS` cells."""
    step = max(1, BLOCK_CELLS // num_rows)
    for start in range(0, len(classes), step):
        yield classes[start : start + step]


def groups_of(groups: Ints | None, rows: NDArray[np.bool_]) -> Ints | None:
    return None if groups is None else groups[rows]


def unit_errors(influences: Floats, units: ResamplingUnits) -> Floats:
    """Standard errors (C,) of figures from the influences (N, C) of the rows; infinite where there is one unit."""
    sums = units.sums(influences)
    if len(sums) < 2:
        return np.full(influences.shape[1], np.inf)
    return np.asarray(np.sqrt(np.einsum("gc,gc->c", sums, sums) * (len(sums) / (len(sums) - 1))))


def chance_of(excess: float, error: float, num_units: int) -> float:
    """One-sided p-value of such an excess if there is none; 0 where it is positive without any spread.

    >>> [round(chance_of(excess, 1.0, 10_000), 3) for excess in (0.0, 1.645, -1.0)]
    [0.5, 0.05, 0.841]
    """
    from scipy.special import stdtr  # loaded with the first judgement, not with the module

    if error == 0:
        return float(excess <= 0)
    return float(stdtr(max(1, num_units - 1), -excess / error))


def shown_excess(
    value: float, error: float, limit: float, level: float, num_units: int, class_index: int | None
) -> Finding:
    """A figure that stops where it is beyond the limit and more than chance makes of 0; with its 95 % interval."""
    chance = chance_of(value, error, num_units)
    half = NormalDist().inv_cdf(0.975) * error
    low, high = (value - half, value + half) if np.isfinite(error) else (None, None)
    return Finding(value <= limit + 1e-12 or chance > level, value, limit, low, high, class_index, chance)


def worth_a_test(values: Floats, limit: float) -> list[int]:
    """Where values (C,) are beyond the limit, or else the largest; nothing of none. Standard errors cost most."""
    return np.flatnonzero(values > limit).tolist() or ([int(values.argmax())] if len(values) else [])


def decisive(findings: Sequence[Finding], limit: float) -> Finding:
    """The finding that stops, or else that with the largest figure; one that passes at 0 where there is none."""
    return max(findings, key=lambda finding: (not finding.passed, finding.value), default=Finding(True, 0.0, limit))


#: So many classes may be stopped by chance among all, and a class's level within these ends.
CHANCE_CLASSES = 0.5
MIN_LEVEL = 0.01
MAX_LEVEL = 0.1


def lost_answers(before: Floats, after: Floats, targets: Ints) -> Floats:
    """1 for a row (N,) whose right answer became wrong, −1 for one that became right, from probabilities (N, K)."""
    was, now = (probs.argmax(axis=1) == targets for probs in (before, after))
    return np.asarray(was.astype(np.float64) - now)


def sign_tested(
    lost: Floats, groups: Ints | None, level: float, limit: float, most: float, class_index: int | None
) -> Finding:
    """The mean of what each row lost (N,), from −1 to 1, against `limit`; beyond `most` no chance excuses it."""
    # A group that lost more than it won is one loss.
    units = lost if groups is None else np.sign(np.bincount(groups, lost))
    drop, chance = float(lost.mean()), chance_of_losing(float(units[units > 0].sum()), float(-units[units < 0].sum()))
    passed = drop <= limit + 1e-12 or (chance > level and drop <= most + 1e-12)
    return Finding(passed, drop, limit, class_index=class_index, chance=chance)


def with_interval(finding: Finding, lost: Floats, groups: Ints | None) -> Finding:
    """The finding with the 95 % interval of its mean loss, of rows or of whole groups."""
    interval = BoundedMean.of(lost, lower=-1.0, upper=1.0, groups=groups).estimate(0.025)
    return replace(finding, low=interval.low, high=interval.high)


def chance_of_losing(lost: float, won: float) -> float:
    """The one-sided chance of at least so many losses if both were equally likely; a shared loss counts as its part.

    >>> chance_of_losing(3, 0)
    0.125
    """
    from scipy.special import betainc  # loaded with the first judgement, not with the module

    return float(betainc(lost, won + 1, 0.5)) if lost > 0 else 1.0
