"""Bootstrap intervals from count weights: how often each resample holds every row, or every group of rows.

Validation of the arguments of metrics; messages name the row.

Proportions: intervals and exact tests of shares of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import erfc, lgamma, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.contract.figures import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUM_TOLERANCE = 1e-3


def check_rows(probs: ArrayLike, targets: ArrayLike) -> tuple[Floats, Ints]:
    """Probabilities (N, K) float64 and class indices (N,) int64.

    Raises:
        ValueError: shapes do not fit, N = 0, K < 2, a probability is NaN or negative, a row does not sum to 1 within
            `SUM_TOLERANCE`, or a target is no class; the message names the row.
    """
    rows = check_probs(probs)
    labels = _array(targets)
    if labels.shape != rows.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"targets must be {len(rows)} integer class indices, got {labels.shape} of type {labels.dtype}"
        )
    _refuse((labels < 0) | (labels >= rows.shape[1]), labels, f"targets must lie in 0..{rows.shape[1] - 1}")
    return rows, labels.astype(np.int64)


def check_probs(probs: ArrayLike) -> Floats:
    raw = _array(probs)
    if raw.ndim != 2 or raw.shape[0] == 0 or raw.shape[1] < 2:
        raise ValueError(f"probs must be (N, K) with N >= 1 and K >= 2, got {raw.shape}")
    rows: Floats = raw.astype(np.float64, copy=False)
    sums = rows.sum(axis=1)
    _refuse(~np.isfinite(sums), sums, "probs must be finite")
    lowest = rows.min(axis=1)
    _refuse(lowest < 0, lowest, "probs must not be negative")
    _refuse(np.abs(sums - 1) > SUM_TOLERANCE, sums, f"probs must sum to 1 (within {SUM_TOLERANCE:g})")
    return rows


def check_groups(groups: ArrayLike | None, num_rows: int) -> Ints | None:
    """Group numbers 0..G−1 (N,) for any labels (N,) of groups."""
    if groups is None:
        return None
    names = _array(groups)
    if names.shape != (num_rows,):
        raise ValueError(f"groups must be ({num_rows},), one for each row, got {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def check_count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def check_level(confidence_level: float) -> float:
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must lie in (0, 1), got {confidence_level!r}")
    return float(confidence_level)


def _array(values: Any) -> NDArray[Any]:
    # A tensor that still carries a gradient does not turn into an array by itself.
    return np.asarray(values.detach() if hasattr(values, "detach") else values)


def _refuse(bad: NDArray[np.bool_], values: NDArray[Any], expectation: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{expectation}, got {values[row]} in row {row} of {len(values)}")


# Cells of one chunk of resamples: arrays of 1.6 MB stay in the processor's cache, which took a third off the time.
CHUNK_CELLS = 200_000


def paired_bootstrap(
    differences: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of row differences (N,) with its percentile interval; rows of one group are resampled together.

    Raises:
        ValueError: differences are not (N,) with N >= 1 and finite, groups are not (N,), or an option is out of range.

    >>> paired_bootstrap([1.0, 1.0, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    rows = np.asarray(differences, dtype=np.float64)
    if rows.ndim != 1 or len(rows) == 0 or not np.isfinite(rows).all():
        raise ValueError(f"differences must be (N,) with N >= 1 and finite, got {rows.shape}")
    units = ResamplingUnits(check_groups(groups, len(rows)), len(rows))
    sums = units.sums(rows[:, None])
    draws = units.draws(
        lambda counts: units.means(counts, sums)[:, 0], check_count("num_resamples", num_resamples), seed
    )
    low, high = percentile_interval(draws, check_level(confidence_level))
    return Estimate(value=float(rows.mean()), low=low, high=high)


def percentile_interval(draws: Floats, confidence_level: float) -> tuple[float, float]:
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def chunks(num_draws: int, cells: int) -> Iterator[int]:
    """Sizes that add up to `num_draws` of so many cells each, so that no chunk is larger than `CHUNK_CELLS`."""
    step = max(1, CHUNK_CELLS // cells)
    for start in range(0, num_draws, step):
        yield min(step, num_draws - start)


class ResamplingUnits:
    """The units of resampling: the rows, or whole groups of them."""

    def __init__(self, groups: Ints | None, num_rows: int) -> None:
        self._groups = groups
        self.sizes = np.ones(num_rows, dtype=np.int64) if groups is None else np.bincount(groups)

    def sums(self, rows: Floats) -> Floats:
        """Sums over each unit, (G, M), of row values (N, M)."""
        if self._groups is None:
            return rows
        return np.stack([np.bincount(self._groups, column) for column in rows.T], axis=1)

    def draws(self, statistic: Callable[[Ints], Floats], num_resamples: int, seed: int) -> Floats:
        """The statistic (R, …) of R resamples, each given as counts (r, G) of its units."""
        return np.concatenate([statistic(counts) for counts in self.resamples(num_resamples, seed)])

    def row_draws(self, statistic: Callable[[Ints], Floats], num_resamples: int, seed: int) -> tuple[Floats, Floats]:
        """The statistic (…) of the rows themselves, and that (R, …) of R resamples, of counts (r, N) of rows."""
        whole = np.ones((1, len(self.sizes)), dtype=np.int64)
        drawn = self.draws(lambda counts: statistic(self.of_rows(counts)), num_resamples, seed)
        return statistic(self.of_rows(whole))[0], drawn

    def resamples(self, num_resamples: int, seed: int) -> Iterator[Ints]:
        """Counts (r, G), chunk by chunk: multinomial draws of G units out of G, all units alike."""
        rng, size = np.random.default_rng(seed), len(self.sizes)
        for draws in chunks(num_resamples, size):
            cells = rng.integers(size, size=(draws, size)) + size * np.arange(draws)[:, None]
            yield np.bincount(cells.ravel(), minlength=draws * size).reshape(draws, size)

    def means(self, counts: Ints, sums: Floats) -> Floats:
        """Means (r, M) over the rows of each resample."""
        weights = counts.astype(np.float64)
        return weights @ sums / (weights @ self.sizes.astype(np.float64))[:, None]

    def of_rows(self, counts: Ints) -> Ints:
        """Counts (r, N) of rows for counts (r, G) of units."""
        return counts if self._groups is None else counts[:, self._groups]


def clustered_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> Estimate:
    """The (weighted) mean of row values (N,), with an interval from the spread over whole groups.

    The standard error is the root of the summed squares of what each of the G groups adds to the mean, times
    √(G/(G − 1)), and the quantile Student's with G − 1 degrees of freedom. All rows in a single group say nothing of
    the spread between groups; then rows count, as where the calibrators are compared.

    Args:
        groups: labels (N,) of rows that depend on each other.
        weights: sampling weights (N,) of the rows.

    Raises:
        ValueError: values are not (N,) with N >= 2 and finite, or groups or weights are not (N,).

    >>> round(clustered_mean([1.0, 3.0]).high, 2)  # 2 and Student's quantile with one degree of freedom, 12.71
    14.71
    """
    from scipy.special import stdtrit  # loaded with the first interval, not with the module

    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1 or len(rows) < 2 or not np.isfinite(rows).all():
        raise ValueError(f"values must be (N,) with N >= 2 and finite, got {rows.shape}")
    shares = row_shares(weights, len(rows))
    mean = float(shares @ rows)
    parts = unit_sums(shares * (rows - mean), groups)
    error = float(np.sqrt(np.square(parts).sum() * len(parts) / (len(parts) - 1)))
    half = float(stdtrit(len(parts) - 1, (1 + check_level(confidence_level)) / 2)) * error
    return Estimate(value=mean, low=mean - half, high=mean + half)


def unit_sums(values: Floats, groups: ArrayLike | None) -> Floats:
    """Sums of row values (N,) over whole groups; rows of a single group, which tell no spread between groups, count."""
    codes = check_groups(groups, len(values))
    return values if codes is None or codes.max() == 0 else np.bincount(codes, values).astype(np.float64)


def row_shares(weights: ArrayLike | None, num_rows: int) -> Floats:
    """Weights of the rows (N,), summing to 1."""
    if weights is None:
        return np.full(num_rows, 1 / num_rows)
    given: Floats = np.asarray(weights, dtype=np.float64)
    if given.shape != (num_rows,):
        raise ValueError(f"weights must be ({num_rows},), one for each row, got {given.shape}")
    return np.asarray(given / given.sum(), np.float64)


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
