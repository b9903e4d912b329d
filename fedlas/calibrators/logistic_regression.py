"""Logistic regression of two classes on a few columns, as the maps of log-odds need it."""

from __future__ import annotations

import numpy as np

from fedlas.calibrators.base import HIGHEST, LOWEST, Floats, Ints, effective_count


def platt_targets(labels: Ints, rows: Floats) -> Floats:
    """(N₊ + 1)/(N₊ + 2) for positives and 1/(N₋ + 2) for negatives: the best line is always finite."""
    count = effective_count(rows)
    positives = float(rows @ labels) * count
    negatives = count - positives
    return np.where(labels == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))


def logistic_line(x: Floats, soft_targets: Floats, rows: Floats) -> tuple[float, float]:
    """Slope (in its bounds) and intercept of a logistic regression of soft targets (N,) on x (N,)."""
    centre, scale = float(rows @ x), float(np.sqrt(rows @ (x - rows @ x) ** 2)) or 1.0
    design = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)
    line = newton(design, np.zeros_like(x), soft_targets, rows)
    slope = float(line[0]) / scale
    if LOWEST <= slope <= HIGHEST:
        return slope, float(line[1]) - slope * centre
    slope = float(np.clip(slope, LOWEST, HIGHEST))
    intercept = newton(design[:, 1:], slope * x, soft_targets, rows)
    return slope, float(intercept[0])


def bounded_line(columns: Floats, soft_targets: Floats, rows: Floats) -> Floats:
    """Slopes (P,) in their bounds and the intercept of a logistic regression of soft targets (N,) on columns (N, P).

    The column with the lowest slope is fixed at the bound first, then the others are fitted again, until none is below.
    """
    offset, free = np.zeros(len(columns)), list(range(columns.shape[1]))
    slopes = np.full(columns.shape[1], LOWEST)
    while True:
        design = np.concatenate([columns[:, free], np.ones((len(columns), 1))], axis=1)
        found = newton(design, offset, soft_targets, rows)
        if not free or found[:-1].min() >= LOWEST:
            slopes[free] = np.minimum(found[:-1], HIGHEST)
            return np.append(slopes, found[-1])
        fixed = free.pop(int(found[:-1].argmin()))
        offset = offset + LOWEST * columns[:, fixed]


def newton(design: Floats, offset: Floats, soft_targets: Floats, rows: Floats) -> Floats:
    """Coefficients (P,) of a logistic regression with a fixed offset, by damped Newton steps."""

    def loss(coefficients: Floats) -> float:
        log_odds = offset + design @ coefficients
        return float(rows @ (np.logaddexp(0.0, log_odds) - soft_targets * log_odds))

    coefficients = np.zeros(design.shape[1])
    for _ in range(100):
        positive = 0.5 * (1.0 + np.tanh(0.5 * (offset + design @ coefficients)))
        gradient = design.T @ (rows * (positive - soft_targets))
        hessian = (design.T * (rows * positive * (1.0 - positive))) @ design
        step = np.linalg.solve(hessian + 1e-12 * np.eye(len(coefficients)), gradient)
        size, here = 1.0, loss(coefficients)
        while loss(coefficients - size * step) > here and size > 1e-8:
            size /= 2.0
        coefficients = coefficients - size * step
        if np.abs(gradient).max() < 1e-12:
            break
    return coefficients
