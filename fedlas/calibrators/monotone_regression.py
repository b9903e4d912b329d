"""Monotone regression on few knots: pool-adjacent-violators on binned rows."""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

from fedlas.calibrators.base import Floats, Ints

MAX_KNOTS = 32
#: A bin holds at least so much surprise Σ|hit − p|, about as many rows as its mean needs to mean something.
_LEAST_SURPRISE = 10.0
#: Every bin begins with so many rows that say what the probabilities say: its mean is never 0 or 1.
_PRIOR_ROWS = 1.0


def monotone_knots(probs: Floats, hits: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Mean probability and mean hit of at most `MAX_KNOTS` groups of rows, both strictly increasing, inside (0, 1).

    Centred isotonic regression (Oron and Flournoy 2017): a pool stands at the mean of what it pooled, not as a step.

    Args:
        probs, hits: (N,) in [0, 1].
        rows: weights (N,); their sum is the number of rows.
    """
    order = np.argsort(probs, kind="stable")
    probs, hits, rows = probs[order], hits[order], rows[order]
    bins = _bins(rows * np.abs(hits - probs), rows)
    bins = bins[np.searchsorted(probs, probs)]  # equal probabilities stay together
    filled = np.bincount(bins, rows).astype(np.float64)
    used = filled > 0
    mass = filled[used]
    says = np.clip(np.bincount(bins, rows * probs)[used] / mass, 1e-12, 1 - 1e-12)
    found = (np.bincount(bins, rows * hits)[used] + _PRIOR_ROWS * says) / (mass + _PRIOR_ROWS)
    mass = mass + _PRIOR_ROWS
    pooled = isotonic_regression(found, weights=mass).x
    pools = np.cumsum(np.diff(pooled, prepend=-1.0) > 0) - 1
    whole = np.bincount(pools, mass)
    return np.bincount(pools, mass * says) / whole, np.bincount(pools, mass * found) / whole


def _bins(surprise: Floats, rows: Floats) -> Ints:
    """Bin of every row, in order, so that each bin holds the same surprise."""
    total = float(surprise.sum())
    count = int(np.clip(total / _LEAST_SURPRISE, 1, MAX_KNOTS))
    share = np.cumsum(surprise + 1e-12 * rows)
    middle = share - 0.5 * (surprise + 1e-12 * rows)
    bins: Ints = np.minimum((middle / share[-1] * count).astype(np.int64), count - 1)
    return bins


def bounded_slopes(x: Floats, y: Floats, *, lowest: float, highest: float) -> tuple[Floats, Floats]:
    """Knots (J,) and values (J,), thinned and raised so that every slope lies in lowest..highest.

    A jump is taken apart from its upper end: knots that climb too fast are merged into the mean of both.
    """
    kept = [(x[0], y[0], 1.0)]
    for point in zip(x[1:], y[1:], strict=True):
        here, value, count = point[0], point[1], 1.0
        while kept and value - kept[-1][1] > highest * (here - kept[-1][0]):
            before, its_value, its_count = kept.pop()
            both = its_count + count
            here, value, count = (
                (before * its_count + here * count) / both,
                (its_value * its_count + value * count) / both,
                both,
            )
        kept.append((here, value, count))
    knots, values = np.array([k[0] for k in kept]), np.array([k[1] for k in kept])
    for j in range(1, len(knots)):
        values[j] = max(values[j], values[j - 1] + lowest * (knots[j] - knots[j - 1]))
    return knots, values
