"""Clopper and Pearson's upper bound of a binomial share, for whole arrays at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats


def upper_bound(successes: ArrayLike, trials: ArrayLike, level: float) -> Floats:
    """The share p at which so few successes have probability `level`: P(Bin(n, p) <= x) = level.

    Clopper and Pearson's one-sided bound (Biometrika 1934): it lies below the true share in at most `level` of all
    draws. `x` and `n` need not be whole, since effective numbers of rows are not (Korn and Graubard 1998). No trials
    give 1.

    Raises:
        ValueError: successes outside 0..trials, or `level` outside (0, 1).

    >>> round(float(upper_bound(0, 100, 0.05)), 6)  # 1 - 0.05 ** (1 / 100)
    0.029513
    """
    # Loaded where bounds are fitted: serving only reads them, and SciPy would cost each of its processes 25 MB.
    from scipy.special import betainccinv

    x, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    if not (np.all(x >= 0) and np.all(x <= n)):
        raise ValueError("successes must lie in 0..trials")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    bounded = x < n
    bound: Floats = np.where(bounded, betainccinv(x + 1, np.where(bounded, n - x, 1), level), 1.0)
    return bound
