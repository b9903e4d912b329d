"""Regressions of labels: of two classes on a few columns, with bounds, and a multinomial one with a ridge.

The multinomial one is fitted by Newton's method with conjugate gradients; what is fitted is a deviation from the given
logits, linear in θ, pulled towards zero. (scikit-learn's logistic regression takes neither an offset per row nor a
penalty per coefficient; SciPy's L-BFGS takes a third longer on 10 classes and 2,000 rows, and ends 7e-6 away.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators.base import MAX_FACTOR, Floats, Ints, effective_count, softmax

_STEPS = 100
#: Half the squared Newton decrement is about how far the loss is above its minimum: this is below all reported digits.
_GRADIENT_TOLERANCE = 1e-15
_AT_BOUND = 1e-9
Flags = NDArray[np.bool_]


def platt_targets(labels: Ints, rows: Floats) -> Floats:
    """(N₊ + 1)/(N₊ + 2) for positives and 1/(N₋ + 2) for negatives: the best line is always finite."""
    count = effective_count(rows)
    positives = float(rows @ labels) * count
    return np.where(labels == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (count - positives + 2.0))


def logistic_line(columns: Floats, soft_targets: Floats, rows: Floats, *, lowest: float) -> Floats:
    """Slopes (P,), at least `lowest`, and the intercept of a regression of soft targets (N,) on columns (N, P).

    >>> logistic_line(np.array([[-1.0], [1.0]]), np.array([0.25, 0.75]), np.array([0.5, 0.5]), lowest=0.01).round(6)
    array([1.098612, 0.      ])
    """
    centre = rows @ columns
    scale = np.sqrt(rows @ np.square(columns - centre))
    scale[scale == 0.0] = 1.0
    design = np.concatenate([(columns - centre) / scale, np.ones((len(columns), 1))], axis=1)
    bounds = np.append(lowest * scale, -np.inf), np.append(MAX_FACTOR * scale, np.inf)
    nothing = np.zeros((len(scale) + 1, len(scale) + 1))
    coefficients = bounded_newton(design, soft_targets, rows, bounds=bounds, penalty=nothing, start=nothing[0])
    slopes = coefficients[:-1] / scale
    return np.append(slopes, coefficients[-1] - slopes @ centre)


def bounded_newton(
    design: Floats, soft_targets: Floats, rows: Floats, *, bounds: tuple[Floats, Floats], penalty: Floats, start: Floats
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
    from scipy.special import expit  # loaded where calibrators are fitted: API and workers start without it

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
        if not slope > _GRADIENT_TOLERANCE:
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


_NEWTON_STEPS = 50
_CG_STEPS = 60
#: Half the squared Newton decrement is about how far the loss is above its minimum: this is below all reported digits.
_CONVERGED = 1e-11
#: With no more numbers than this in θ the Hessian of a diagonal map is formed.
_MAX_DENSE_CLASSES = 200
#: A linear map θ → (N, K) for fixed rows; `squares` is `backward` with every coefficient squared.
LogitMap: TypeAlias = "DiagonalMap | MatrixMap"


class DiagonalMap:
    """θ (2, K): a factor and an offset per class; z ↦ z∘θ₀ + θ₁."""

    def __init__(self, z: Floats) -> None:
        self.z = z

    def forward(self, theta: Floats) -> Floats:
        return np.asarray(self.z * theta[0] + theta[1])

    def backward(self, residuals: Floats) -> Floats:
        return np.stack([np.einsum("nk,nk->k", self.z, residuals), residuals.sum(axis=0)])

    def squares(self, residuals: Floats) -> Floats:
        return np.stack([np.einsum("nk,nk,nk->k", self.z, self.z, residuals), residuals.sum(axis=0)])

    def hessian(self, probs: Floats, rows: Floats) -> Floats:
        """The Hessian (2K, 2K) of Σ rows·NLL: one matrix product, far quicker than conjugate gradients for small K."""
        seen = np.concatenate([self.z * probs, probs], axis=1)
        hessian: Floats = -(seen.T @ (rows[:, None] * seen))
        num_classes, weighed = self.z.shape[1], rows[:, None] * probs
        factor, offset = np.arange(num_classes), np.arange(num_classes) + num_classes
        mixed = np.einsum("nk,nk->k", self.z, weighed)
        hessian[factor, factor] += np.einsum("nk,nk,nk->k", self.z, self.z, weighed)
        hessian[factor, offset] += mixed
        hessian[offset, factor] += mixed
        hessian[offset, offset] += weighed.sum(axis=0)
        return hessian


class MatrixMap:
    """θ (K + 1, K): a matrix and an offset; z ↦ zθ₀…ₖ₋₁ + θₖ."""

    def __init__(self, z: Floats) -> None:
        self.design = np.concatenate([z, np.ones((len(z), 1))], axis=1)

    def forward(self, theta: Floats) -> Floats:
        return np.asarray(self.design @ theta)

    def backward(self, residuals: Floats) -> Floats:
        return np.asarray(self.design.T @ residuals)

    def squares(self, residuals: Floats) -> Floats:
        return np.asarray(np.square(self.design).T @ residuals)


def fit_logit_map(logit_map: LogitMap, z: Floats, labels: Ints, rows: Floats, penalty: Floats) -> Floats:
    """θ that minimises Σ rows·NLL(z + logit_map(θ)) + Σ penalty·θ², with rows (N,) that sum to 1 and penalty > 0.

    The penalty makes the loss strictly convex, so there is one minimum, also where rows are perfectly separated.
    """
    theta = np.zeros_like(penalty)
    index = np.arange(len(labels))

    def loss(out: Floats, at: Floats) -> float:
        top = out.max(axis=1)
        nll = top + np.log(np.exp(out - top[:, None]).sum(axis=1)) - out[index, labels]
        return float(rows @ nll + (penalty * at**2).sum())

    out = z
    here = loss(out, theta)
    for _ in range(_NEWTON_STEPS):
        probs = softmax(out)
        residuals = probs.copy()
        residuals[index, labels] -= 1.0
        gradient = logit_map.backward(rows[:, None] * residuals) + 2.0 * penalty * theta
        step = _newton_step(logit_map, probs, rows, penalty, gradient)
        slope = float((gradient * step).sum())
        if not slope > 2.0 * _CONVERGED:
            break
        moved, size = logit_map.forward(step), 1.0
        while (new := loss(out - size * moved, theta - size * step)) > here - 1e-4 * size * slope and size > 1e-10:
            size /= 2.0
        if new >= here:
            break
        out, theta, here = out - size * moved, theta - size * step, new
    return theta


def _newton_step(logit_map: LogitMap, probs: Floats, rows: Floats, penalty: Floats, gradient: Floats) -> Floats:
    """H⁻¹·gradient for the Hessian H of the penalised loss, which is formed only where that is cheap."""
    if isinstance(logit_map, DiagonalMap) and penalty.size <= _MAX_DENSE_CLASSES:
        hessian = logit_map.hessian(probs, rows) + np.diag(2.0 * penalty.ravel())
        return np.asarray(np.linalg.solve(hessian, gradient.reshape(-1, 1)), np.float64).reshape(gradient.shape)

    def times_hessian(v: Floats) -> Floats:
        moved = logit_map.forward(v)
        moved = probs * (moved - np.einsum("nk,nk->n", probs, moved)[:, None])
        return logit_map.backward(rows[:, None] * moved) + 2.0 * penalty * v

    diagonal = logit_map.squares(rows[:, None] * probs * (1.0 - probs)) + 2.0 * penalty
    return _conjugate_gradients(times_hessian, gradient, diagonal)


def _conjugate_gradients(product: Callable[[Floats], Floats], wanted: Floats, diagonal: Floats) -> Floats:
    """Solves product(x) = wanted, preconditioned by the diagonal; loosely while `wanted` is large (Dembo 1982)."""
    x, residual = np.zeros_like(wanted), wanted.copy()
    scaled = residual / diagonal
    direction, size = scaled, float((residual * scaled).sum())
    enough = size * min(0.1, np.sqrt(size)) ** 2
    for _ in range(_CG_STEPS):
        if size <= enough:
            break
        turned = product(direction)
        length = size / float((direction * turned).sum())
        x, residual = x + length * direction, residual - length * turned
        scaled = residual / diagonal
        new = float((residual * scaled).sum())
        direction, size = scaled + (new / size) * direction, new
    return x
