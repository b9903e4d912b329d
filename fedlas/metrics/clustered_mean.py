"""The mean of row values with Student's interval, where rows of one group count as one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, check_groups, check_level
from fedlas.metrics.bootstrap import Estimate


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
    return Estimate(mean, mean - half, mean + half)


def unit_sums(values: Floats, groups: ArrayLike | None) -> Floats:
    """Sums of row values (N,) over whole groups; rows of a single group, which tell no spread between groups, count."""
    codes = check_groups(groups, len(values))
    return values if codes is None or codes.max() == 0 else np.bincount(codes, values).astype(np.float64)


def row_shares(weights: ArrayLike | None, num_rows: int) -> Floats:
    """What each row counts (N,); they sum to 1."""
    if weights is None:
        return np.full(num_rows, 1 / num_rows)
    given: Floats = np.asarray(weights, dtype=np.float64)
    if given.shape != (num_rows,):
        raise ValueError(f"weights must be ({num_rows},), one for each row, got {given.shape}")
    return np.asarray(given / given.sum(), np.float64)
