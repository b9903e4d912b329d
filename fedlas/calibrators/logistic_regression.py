"""Logistic regression of two classes on a few columns, with bounds and a penalty, as the maps of log-odds need it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fedlas.calibrators.base import HIGHEST, Floats, Ints, effective_count

_STEPS = 100
#: Half the squared Newton decrement is about how far the loss is above its minimum: this is below all reported digits.
_CLOSE_ENOUGH = 1e-15
#: A coefficient this near to a bound is at it.
_AT_BOUND = 1e-9
Flags = NDArray[np.bool_]


def platt_targets(labels: Ints, rows: Floats) -> Floats:
    """(N₊ + 1)/(N₊ + 2) for positives and 1/(N₋ + 2) for negatives: the best line is always finite."""
    count = effective_count(rows)
    positives = float(rows @ labels) * count
    negatives = count - positives
    return np.where(labels == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))


def logistic_line(columns: Floats, soft_targets: Floats, rows: Floats, *, lowest: float) -> Floats:
    """Slopes (P,) from `lowest` to `HIGHEST` and the intercept of a regression of soft targets (N,) on columns (N, P).

    >>> logistic_line(np.array([[-1.0], [1.0]]), np.array([0.25, 0.75]), np.array([0.5, 0.5]), lowest=0.01).round(6)
    array([1.098612, 0.      ])
    """
    centre = rows @ columns
    scale = np.sqrt(rows @ np.square(columns - centre))
    scale[scale == 0.0] = 1.0
    design = np.concatenate([(columns - centre) / scale, np.ones((len(columns), 1))], axis=1)
    bounds = np.append(lowest * scale, -np.inf), np.append(HIGHEST * scale, np.inf)
    nothing = np.zeros((len(scale) + 1, len(scale) + 1))
    found = bounded_newton(design, soft_targets, rows, bounds=bounds, penalty=nothing, start=nothing[0])
    slopes = found[:-1] / scale
    return np.append(slopes, found[-1] - slopes @ centre)


def bounded_newton(
    design: Floats,
    soft_targets: Floats,
    rows: Floats,
    *,
    bounds: tuple[Floats, Floats],
    penalty: Floats,
    start: Floats,
) -> Floats:
    """θ (P,) in its bounds that minimises Σ rows·NLL(design·θ) + (θ − start)ᵀ·penalty·(θ − start).

    Newton's method on the coefficients that no bound holds, each step as far as the next bound at most.

    Args:
        design: (N, P).
        soft_targets: (N,) in [0, 1].
        rows: weights (N,) that sum to 1.
        bounds: lowest and highest coefficients, both (P,).
        penalty: (P, P), positive semidefinite.
        start: (P,), where the search begins and the penalty is zero.
    """
    low, high = bounds

    def loss(theta: Floats) -> float:
        log_odds = design @ theta
        nll = rows @ (np.logaddexp(0.0, log_odds) - soft_targets * log_odds)
        return float(nll + (theta - start) @ penalty @ (theta - start))

    theta: Floats = np.clip(start, low, high)
    here = loss(theta)
    for _ in range(_STEPS):
        positive = expit(design @ theta)
        gradient = design.T @ (rows * (positive - soft_targets)) + 2.0 * penalty @ (theta - start)
        hessian = (design.T * (rows * positive * (1.0 - positive))) @ design + 2.0 * penalty
        step = _inward_step(hessian, gradient, theta - low < _AT_BOUND, high - theta < _AT_BOUND)
        slope = float(gradient @ step)
        if not slope > _CLOSE_ENOUGH:
            break
        moving = step != 0.0
        room = np.where(step > 0, theta - low, high - theta)[moving] / np.abs(step[moving])
        size = min(1.0, float(room.min()))
        while (new := loss(theta - size * step)) > here - 1e-4 * size * slope and size > 1e-10:
            size /= 2.0
        if new >= here:
            break
        theta, here = np.clip(theta - size * step, low, high), new
    return theta


def _inward_step(hessian: Floats, gradient: Floats, at_low: Flags, at_high: Flags) -> Floats:
    """The Newton step to subtract, zero for coefficients at a bound that it would push out."""
    free, step = np.ones(len(gradient), dtype=bool), np.zeros_like(gradient)
    while free.any():
        step[:] = 0.0
        inner = hessian[np.ix_(free, free)] + 1e-12 * np.eye(int(free.sum()))
        step[free] = np.linalg.solve(inner, gradient[free])
        pushed = free & ((at_low & (step > 0)) | (at_high & (step < 0)))
        if not pushed.any():
            break
        free &= ~pushed
    return step
