"""Proportions: intervals and exact tests of shares of rows."""

from __future__ import annotations

from math import erfc, lgamma, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, Ints

# Up to here the distribution is built exactly; beyond, the normal limit with a correction for skewness is as good.
EXACT_ROWS = 400


def wilson(share: ArrayLike, num_rows: ArrayLike, confidence_level: float) -> tuple[Floats, Floats]:
    """Wilson's interval (1927) of a share, for whole arrays: it has a width even where all rows or none count.

    >>> low, high = wilson(1.0, 10, 0.95)
    >>> round(float(low), 4), float(high)
    (0.7225, 1.0)
    """
    p, n = np.asarray(share, np.float64), np.asarray(num_rows, np.float64)
    z = NormalDist().inv_cdf((1 + confidence_level) / 2)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # Where all or none count, the formula gives 1 or 0 but for rounding.
    return np.where(p <= 0, 0.0, np.maximum(middle - half, 0)), np.where(p >= 1, 1.0, np.minimum(middle + half, 1))


def effective_rows(values: Floats, groups: Ints | None) -> float:
    """How many independent rows tell as much about the mean of values (N,) as these do, at most N.

    Without groups N. With groups from their observed scatter; where all values agree and nothing scatters, Kish's
    number, which takes the rows of a group for copies of each other.
    """
    if groups is None:
        return float(len(values))
    ids = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(ids).astype(np.float64)
    kish = len(values) ** 2 / float((sizes**2).sum())
    residuals = values - values.mean()
    within = float((residuals**2).sum())
    if within <= 0 or len(sizes) < 2:
        return kish
    between = float((np.bincount(ids, residuals) ** 2).sum()) * len(sizes) / (len(sizes) - 1)
    return min(float(len(values)), len(values) * within / max(between, 1e-12 * within))


def chance_of_sum(probs: Floats, total: int) -> float:
    """Two-sided p-value of `total` successes among independent events of probabilities (N,): twice the smaller tail.

    Exact up to `EXACT_ROWS` uncertain events (the distribution is convolved), then the normal limit with its first
    correction for skewness (Volkova 1996).

    >>> chance_of_sum(np.full(3, 0.5), 3)
    0.25
    """
    open_ones = probs[(probs > 0) & (probs < 1)]
    left = total - int((probs >= 1).sum())
    if not 0 <= left <= len(open_ones):
        return 0.0  # something impossible has happened
    if len(open_ones) <= EXACT_ROWS:
        mass = _poisson_binomial(open_ones)
        at_most, at_least = float(mass[: left + 1].sum()), float(mass[left:].sum())
    else:
        at_most = _refined_normal(open_ones, left)
        at_least = 1 - _refined_normal(open_ones, left - 1)
    return min(1.0, 2 * max(min(at_most, at_least), 0.0))


def _poisson_binomial(probs: Floats) -> Floats:
    mass = np.zeros(len(probs) + 1)
    mass[0] = 1.0
    for i, p in enumerate(probs, start=1):
        mass[1 : i + 1] = mass[1 : i + 1] * (1 - p) + mass[:i] * p
        mass[0] *= 1 - p
    return mass


def _refined_normal(probs: Floats, total: int) -> float:
    variance = probs * (1 - probs)
    deviation = sqrt(max(float(variance.sum()), 1e-300))
    skewness = float((variance * (1 - 2 * probs)).sum()) / deviation**3
    z = (total + 0.5 - float(probs.sum())) / deviation
    value = normal_cdf(z) + skewness * (1 - z**2) * np.exp(-(z**2) / 2) / (6 * sqrt(2 * np.pi))
    return float(np.clip(value, 0, 1))


def chance_of_so_few(hits: int, size: int, all_hits: int, num_rows: int) -> float:
    """P(X <= hits) for X the hits among `size` rows drawn from `num_rows` of which `all_hits` hit (Fisher's test).

    >>> round(chance_of_so_few(0, 2, 2, 4), 6)
    0.166667
    """
    low, high = max(0, size - (num_rows - all_hits)), min(hits, size, all_hits)

    def log_choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    whole = log_choose(num_rows, size)
    parts = [log_choose(all_hits, k) + log_choose(num_rows - all_hits, size - k) - whole for k in range(low, high + 1)]
    return min(1.0, float(np.exp(parts).sum()))


def normal_cdf(z: float) -> float:
    return erfc(-z / sqrt(2)) / 2


def clustered_z(values: Floats, groups: Ints) -> float | None:
    """Sum of values (N,) over its standard error if whole groups are drawn and the mean is 0; None without spread."""
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], values)
    if len(sums) < 2:
        return None
    error = sqrt(float((sums**2).sum()) * len(sums) / (len(sums) - 1))
    return float(sums.sum()) / error if error > 0 else None
