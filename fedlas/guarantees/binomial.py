"""The exact upper bound of a binomial share, for whole arrays at once; it knows no classifier."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_TINY = 1e-300
_MAX_STEPS = 64
_PRECISION = 1e-11
_MAX_TERMS = 20_000

_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


def upper_bound(successes: ArrayLike, trials: ArrayLike, level: float) -> Floats:
    """The share p at which so few successes have probability `level`: P(Bin(n, p) <= x) = level.

    Clopper and Pearson's one-sided bound (Biometrika 1934): it lies below the true share in at most `level` of all
    draws. `x` and `n` need not be whole, since effective numbers of rows are not (Korn and Graubard 1998). No trials
    give 1. The result is exact to 1e-10, and rather too high than too low.

    Raises:
        ValueError: successes outside 0..trials, or `level` outside (0, 1).

    >>> round(float(upper_bound(0, 100, 0.05)), 6)  # 1 - 0.05 ** (1 / 100)
    0.029513
    """
    x, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    if not (np.all(x >= 0) and np.all(x <= n)):
        raise ValueError("successes must lie in 0..trials")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    result = np.ones(x.shape)
    open_ = x < n
    a, b = x[open_] + 1, n[open_] - x[open_]
    result[open_] = _quantile(a, b, level) if a.size else 0.0
    return result


def _quantile(a: Floats, b: Floats, level: float) -> Floats:
    """p with 1 - I_p(a, b) = level, by Newton's method on the logarithm, within a bracket.

    log(1 - I) is concave for a, b >= 1, so the steps come down from above the root: what is left is too high.
    """
    low, high, p = np.zeros(a.shape), np.full(a.shape, 1 - _PRECISION), a / (a + b)
    log_beta = _lgamma(a) + _lgamma(b) - _lgamma(a + b)
    for _ in range(_MAX_STEPS):
        survival = beta_cdf(b, a, 1 - p)
        inside = survival > level
        low, high = np.where(inside, p, low), np.where(inside, high, p)
        density = np.exp((a - 1) * np.log(p) + (b - 1) * np.log1p(-p) - log_beta)
        step = np.log(np.maximum(survival, _TINY) / level) * survival / np.maximum(density, _TINY)
        trusted = (survival > _TINY) & (low < p + step) & (p + step < high)
        p_next = np.where(trusted, p + step, (low + high) / 2)
        settled = np.abs(p_next - p) < _PRECISION
        p = p_next
        if settled.all():
            break
    upper: Floats = np.minimum(1, p + _PRECISION)
    return upper


def beta_cdf(a: Floats, b: Floats, x: Floats) -> Floats:
    """The regularised incomplete beta function I_x(a, b) for arrays of one shape, 0 < x < 1."""
    mirrored = x > (a + 1) / (a + b + 2)
    p, q, y = np.where(mirrored, b, a), np.where(mirrored, a, b), np.where(mirrored, 1 - x, x)
    log_front = _lgamma(p + q) - _lgamma(p) - _lgamma(q) + p * np.log(y) + q * np.log1p(-y)
    tail = np.exp(log_front) * _continued_fraction(p, q, y) / p
    result: Floats = np.where(mirrored, 1 - tail, tail)
    return result


def _continued_fraction(a: Floats, b: Floats, x: Floats) -> Floats:
    """Lentz's evaluation of the fraction in Abramowitz and Stegun 26.5.8."""
    c = np.ones(x.shape)
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, _MAX_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if np.all(np.abs(c * d - 1) < 1e-13):
            break
    return value


def _away_from_zero(value: Floats) -> Floats:
    moved: Floats = np.where(np.abs(value) < _TINY, _TINY, value)
    return moved
