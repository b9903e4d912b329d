"""Thresholds with a promise: above one at most a given share of rows is wrong, or below it few of the right ones lie.

A fixed sequence of exact tests (Bauer 1991; Learn then Test, arXiv 2110.01052): ranks are fixed before any label is
looked at, each is tested at the whole level from the highest scores downwards, and the first that fails ends it.
Given the score at a rank, the rows above it are independent draws of a row with a higher score, so that Clopper and
Pearson's bound holds at each. Of six procedures in a simulation of three judges this one accepted the most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.guarantees.guarantees import upper_bound
from fedlas.metrics.statistics import Floats, Ints

#: The sequence begins at a tenth of the rows: a start at fewer stops early, by chance, more often than it helps.
_START_SHARE = 0.1
#: With fewer rows than so many first ranks with an error it begins at the first without: of 300 rows of a usual judge
#: 7 % were promised anything by a start at 100, 18 % by one at 65.
_FEW_STARTS = 4
#: With as many as this, ranks between these two are passed over: an error there would end it, one at the next need not.
_FEW_STEPS = 3
#: A run of equal scores that ends so much further than the start is tested at half of the level, the end of the run
#: before it at the other half: 70 of 300 rows at 9 and above say enough, where 125 at 8 and above do not.
_OVERSHOOT = 1.25
#: From one rank to the next; finer steps cost time and gain nothing.
_STEP = 1.02
#: Rows are planned for at most; beyond that "no number of labels would do" is the better answer.
MAX_PLANNED_ROWS = 100_000
_REACHABLE_STEP = 0.01
#: From one planned number of rows to the next.
_PLANNED_STEP = 1.02
#: Standard errors that one sample in five exceeds.
_UNLUCKY = 0.84


@dataclass(frozen=True)
class Rows:
    """Scored rows, the best first: `wrong` (N,) in that order, and the ranks at which the score changes.

    Attributes:
        scores: (N,) in this order, so that rows 0..r-1 are those at or above `scores[r - 1]`.
        clusters: (N,) the group of each row; weights: (N,) its sampling weight. None where rows are equal and alone.
    """

    scores: Floats
    wrong: NDArray[np.bool_]
    clusters: Ints | None = None
    weights: Floats | None = None

    @classmethod
    def of(
        cls,
        scores: Floats,
        wrong: NDArray[np.bool_],
        *,
        higher: bool = True,
        clusters: Ints | None = None,
        weights: Floats | None = None,
    ) -> Rows:
        """Sort rows by score, those without one (NaN) last; they are never accepted."""
        order = np.argsort(-scores if higher else scores, kind="stable")
        return cls(
            scores[order],
            wrong[order],
            None if clusters is None else clusters[order],
            None if weights is None else weights[order],
        )

    @cached_property
    def largest(self) -> float:
        """The mass of the heaviest group or row of all, accepted or not; 1 where all are alike."""
        if len(self.scores) == 0 or (self.clusters is None and self.weights is None):
            return 1.0
        codes = np.arange(len(self.scores)) if self.clusters is None else self.clusters
        return float(np.bincount(codes, self.weights).max()) or 1.0

    @property
    def size(self) -> float:
        """The number of rows, as if each group or row were the heaviest."""
        return float(len(self.scores) if self.weights is None else self.weights.sum()) / self.largest

    @cached_property
    def ends(self) -> tuple[Ints, Floats]:
        """The ranks (J,) at which runs of equal scores end, and the rows there as if each were the heaviest."""
        known = int(np.count_nonzero(~np.isnan(self.scores)))
        ends = 1 + np.flatnonzero(np.append(np.diff(self.scores[:known]) != 0, known > 0))
        mass = np.arange(1, known + 1) if self.weights is None else np.cumsum(self.weights[:known])
        return ends, mass[ends - 1] / self.largest

    def ranks(self, start: float, second: float = 0) -> Ints:
        """The fixed sequence of ranks: each the end of a run of equal scores.

        The first has `start` rows or more, the next `second`, where rows count as if each group or row were the
        heaviest: no label enters.
        """
        ends, counts = self.ends
        chosen: list[int] = []
        at = int(np.searchsorted(counts, start))
        while at < len(ends):
            chosen.append(int(ends[at]))
            at = max(int(np.searchsorted(ends, _STEP * chosen[-1])), int(np.searchsorted(counts, second)), at + 1)
        if chosen and chosen[-1] != ends[-1]:
            chosen.append(int(ends[-1]))
        return np.array(chosen, np.int64)

    def counts(self, ranks: Ints) -> tuple[Floats, Floats]:
        """Errors and rows above each rank: effective numbers where rows have groups or weights (Kish 1965)."""
        if self.clusters is None and self.weights is None:
            return np.cumsum(self.wrong)[ranks - 1].astype(np.float64), ranks.astype(np.float64)
        counted = [
            effective_counts(
                self.wrong[:rank],
                None if self.clusters is None else self.clusters[:rank],
                None if self.weights is None else self.weights[:rank],
                largest=self.largest,
            )
            for rank in ranks
        ]
        errors, trials = np.array(counted).T
        return errors, trials


def effective_counts(
    hits: ArrayLike, clusters: Ints | None, weights: Floats | None, *, largest: float | None = None
) -> tuple[float, float]:
    """Hits and rows as exact bounds take them: effective numbers where rows have groups (N,) or weights (N,).

    The smallest of Kish's number of rows (1965), as if all rows of a group shared one fate, the number that the scatter
    of the groups gives, and their mass in units of the `largest` group, which may be none of these: one that is rare
    may hold all errors. Exact for groups of one size.
    """
    found = np.asarray(hits, np.float64)
    if clusters is None and weights is None:
        return float(found.sum()), float(len(found))
    each = np.ones(len(found)) if weights is None else weights
    codes = np.arange(len(found)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    mass, bad = np.bincount(codes, each), np.bincount(codes, each * found)
    total = float(mass.sum())
    if total == 0:
        return 0.0, 0.0
    rate = float(bad.sum()) / total
    trials = min(total**2 / float((mass**2).sum()), total / (largest or float(mass.max())))
    scatter = float(((bad - rate * mass) ** 2).sum())
    if scatter > 0:
        trials = min(trials, rate * (1 - rate) * total**2 / scatter)
    return rate * trials, trials


@dataclass(frozen=True)
class Accepted:
    """The rows at or above a threshold: how many of how many, and the wrong ones among them, as they were counted."""

    threshold: float
    rows: int
    errors: int
    share: float


@lru_cache(1024)
def first_rank(max_error: float, level: float, *, errors: int = 0) -> int:
    """The fewest rows of which so many may be wrong and `max_error` is still promised.

    >>> first_rank(0.05, 0.05), first_rank(0.05, 0.05, errors=1)
    (59, 93)
    """
    low, high = errors, errors + 1
    while float(upper_bound(errors, high, level)) > max_error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if float(upper_bound(errors, middle, level)) > max_error else (low, middle)
    return high


def accepted_within(rows: Rows, max_error: float, level: float) -> Accepted | None:
    """The largest set of the best rows of which at most `max_error` is wrong, but for `level` of all draws; or None.

    Where a long run of equal scores lies across the start there are two sequences, which share the level: the end
    before the run, and those from its end on, which have the whole of it if the first passes.
    """
    ends, counts = rows.ends
    if not len(ends):
        return None
    start = min(_start(rows.size, max_error, level), counts[-1])
    at, before = int(np.searchsorted(counts, start)), 0
    if at > 0 and counts[at] > _OVERSHOOT * start and counts[at - 1] >= first_rank(max_error, level / 2):
        before = _last_passed(rows, ends[at - 1 : at], max_error, level / 2)
        level = level if before else level / 2
    one_error = first_rank(max_error, level, errors=1)
    ranks = rows.ranks(start, one_error if rows.size >= _FEW_STEPS * one_error else 0)
    rank = _last_passed(rows, ranks, max_error, level) or before
    return _accepted(rows, rank) if rank else None


def _start(size: float, max_error: float, level: float) -> int:
    """The rows with which the sequence begins."""
    one_error = first_rank(max_error, level, errors=1)
    return max(one_error if size >= _FEW_STARTS * one_error else first_rank(max_error, level), int(_START_SHARE * size))


def _last_passed(rows: Rows, ranks: Ints, max_error: float, level: float) -> int:
    """The last of these ranks before the first that fails; 0 for none."""
    passed = upper_bound(*rows.counts(ranks), level) <= max_error
    number = len(passed) if passed.all() else int(np.argmin(passed))
    return int(ranks[number - 1]) if number else 0


def accepted_with_recall(rows: Rows, recall: float, level: float) -> Accepted | None:
    """The fewest of the best rows that hold `recall` of the right ones, but for `level` of all draws; or None.

    The k-th worst of the right rows lies above too few of them with the binomial probability of fewer than k among
    the share 1 - recall: a tolerance bound (Wilks 1941).
    """
    from scipy.stats import binom

    places = np.flatnonzero(~rows.wrong & ~np.isnan(rows.scores))
    right = int((~rows.wrong).sum())
    spare = int(binom.ppf(level, right, 1 - recall)) if right else 0
    while spare > 0 and binom.cdf(spare - 1, right, 1 - recall) > level:
        spare -= 1
    spare -= right - len(places)  # rows without a score are not accepted, right as they may be
    if spare <= 0:
        return None
    last = rows.scores[places[len(places) - spare]]
    return _accepted(rows, int(np.flatnonzero(rows.scores == last)[-1]) + 1)


def reachable_error(rows: Rows, above: float, level: float) -> float | None:
    """The smallest share, in hundredths, that some of the best rows could be promised within; None above a half."""
    steps = np.arange(np.floor(above / _REACHABLE_STEP) + 1, 0.5 / _REACHABLE_STEP + 1) * _REACHABLE_STEP
    return next((round(float(e), 2) for e in steps if accepted_within(rows, float(e), level) is not None), None)


def more_labels(rows: Rows, expected: Floats, max_error: float, level: float) -> int | None:
    """How many more rows like these would let a promise be made, with a chance of 80 %; None where none is seen to do.

    The rank with which a longer file begins decides: of judges whose best rows are the wrong ones no number would do,
    and a plan by the best of all ranks, "15,384 more", came true in 0 of 60 cases.

    Args:
        expected: (N,) the probability that each row is wrong, the best first, as the curve has it: half of the rate
            that is planned with, the other half is what was counted.
    """
    count, size = len(rows.scores), rows.size
    ranks = rows.ranks(max(1, int(_START_SHARE * size)))
    if not len(ranks):
        return None
    errors, trials = rows.counts(ranks)
    counted = errors / np.maximum(trials, 1)
    rates = np.where(counted < max_error, (counted + np.cumsum(expected)[ranks - 1] / ranks) / 2, 1.0)
    planned = count * _PLANNED_STEP
    while planned <= MAX_PLANNED_ROWS:
        times = planned / count
        place = int(np.searchsorted(ranks, count * _start(times * size, max_error, level) / (times * size)))
        if place < len(ranks) and _kept(float(rates[place]), times * float(trials[place]), max_error, level):
            return int(np.ceil(planned)) - count
        planned *= _PLANNED_STEP
    return None


def _kept(rate: float, count: float, max_error: float, level: float) -> bool:
    """True if `max_error` is promised of so many rows at this rate of errors, in four of five samples."""
    errors = min(count, rate * count + _UNLUCKY * float(np.sqrt(rate * (1 - rate) * count)))
    return float(upper_bound(errors, count, level)) <= max_error


def _accepted(rows: Rows, rank: int) -> Accepted:
    known = np.ones(len(rows.scores)) if rows.weights is None else rows.weights
    share = float(known[:rank].sum() / known.sum())
    return Accepted(float(rows.scores[rank - 1]), rank, int(rows.wrong[:rank].sum()), round(share, 6))


def planned_labels(max_error: float, share: float, level: float, *, error_there: float | None = None) -> int:
    """How many labels it takes to promise `max_error` for `share` of the rows, in four of five samples.

    The procedure is run on drawn samples of a judge whose error grows in proportion to the rank and is `error_there`
    (half of `max_error` unless it is given) among the share that is to be accepted.

    Raises:
        ValueError: a share outside (0, 1), or no number of labels would do.
    """
    error = max_error / 2 if error_there is None else error_there
    if not (0 < max_error < 1 and 0 < share <= 1 and 0 < level < 1):
        raise ValueError(f"shares of errors and of accepted rows lie between 0 and 1, got {max_error!r} and {share!r}")
    if not 0 <= error < max_error:
        raise ValueError(f"the error among accepted rows must lie in 0..{max_error:g}, got {error!r}")

    def often_enough(count: int) -> bool:
        rng = np.random.default_rng(count)
        grows = np.minimum(2 * error * (np.arange(count) + 0.5) / (share * count), 0.5)
        passed = 0
        for _ in range(_PLANNED_DRAWS):
            rows = Rows(-np.arange(count, dtype=np.float64), rng.random(count) < grows)
            found = accepted_within(rows, max_error, level)
            passed += found is not None and found.share >= _ENOUGH * share
        return passed >= _OFTEN * _PLANNED_DRAWS

    low, high = 1, first_rank(max_error, level)
    while not often_enough(high):
        low, high = high, 2 * high
        if high > MAX_PLANNED_ROWS:
            raise ValueError(f"more than {MAX_PLANNED_ROWS} labels: the error is too close to {max_error:g}")
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if often_enough(middle) else (middle, high)
    return high


_PLANNED_DRAWS = 200
_OFTEN = 0.8
#: The part of the wanted share that counts as having it: the last step of the sequence may fail by chance.
_ENOUGH = 0.95
