"""Feature scaling: one ridge-regularised linear map of them is added to the tempered logits.

calibrated logits = mix((s / T + f·W + b) / U) with logits s, penultimate features f, and W shrunk towards 0: where the
rows cannot tell, it is the temperature T. The last step, a uniform mix (`calibrators.mixture`), is fitted on
cross-fitted logits. In effect the last layer is fitted again on rows that the network has not seen,
as in deep feature reweighting (Kirichenko et al. 2022, arXiv 2204.02937), with the uploaded head as its starting point.
It has D·K parameters, so everything it claims comes from cross-fitting, never from the rows it was fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators import Calibrator, MixtureScaling, TemperatureScaling
from fedlas.calibrators.base import Floats, Ints, Parameters, log_softmax, mixed, stacked_mix
from fedlas.calibrators.stack import Columns, Stack

#: Ridge penalties that compete, on features scaled to mean squared norm 1.
STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
#: The offset is punished less than the weights, but a class without rows must not vanish.
_OFFSET_SHARE = 0.1
#: When L-BFGS ends, and of how many steps it knows the curvature.
_STOPPING = {"maxiter": 120, "maxcor": 30, "gtol": 1e-5, "ftol": 1e-12}
_SHOWN_PARAMETERS = 200
#: Above so many multiplications per pass (N·D·K) fitting would take minutes.
MAX_PRODUCT = 2.0e8


class FeatureScaling(Calibrator):
    """(s / T + f·W + b) / U; see the module. `fit` needs `features` (N, D) and one ridge `strength`."""

    name = "features"

    def __init__(
        self,
        temperature: float = 1.0,
        matrix: ArrayLike | None = None,
        offset: ArrayLike | None = None,
        *,
        strength: float = 1e-3,
        share: float = 0.0,
    ) -> None:
        self.temperature = float(temperature)
        self.matrix = np.zeros((0, 0)) if matrix is None else np.asarray(matrix, np.float64)
        self.offset = np.zeros(0) if offset is None else np.asarray(offset, np.float64)
        self.strength, self.share = float(strength), float(share)

    def fit(
        self,
        logits: ArrayLike,
        targets: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        features: ArrayLike | None = None,
    ) -> Self:
        """Fit on logits (N, K), features (N, D) and class indices (N,).

        Raises:
            ValueError: features are missing or not (N, D) and finite; as `TemperatureScaling.fit`.
        """
        scores, seen, labels = np.asarray(logits, np.float64), _checked(features, logits), np.asarray(targets, np.int64)
        tempered = TemperatureScaling().fit(scores, labels, weights=weights)
        rows = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
        rows = rows / rows.sum()
        centre = rows @ seen
        size = float(np.sqrt(rows @ np.square(seen - centre).sum(axis=1))) or 1.0
        matrix, offset = _ridge((seen - centre) / size, tempered(scores), labels, rows, self.strength)
        self.temperature = tempered.temperature
        self.matrix = matrix / size
        self.offset = offset - centre @ self.matrix
        return self

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        """Calibrated logits (N, K) float64 for logits (N, K) and features (N, D)."""
        scores = np.asarray(logits, np.float64)
        return mixed(scores / self.temperature + _checked(features, scores) @ self.matrix + self.offset, self.share)

    def then(self, last: MixtureScaling) -> FeatureScaling:
        """The map that applies this one, then one more temperature and uniform mixing."""
        u = last.temperature
        return FeatureScaling(
            self.temperature * u, self.matrix / u, self.offset / u, strength=self.strength, share=last.share
        )

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        mapped = stack.apply("Identity", stack.given(features, len(self.matrix)) @ self.matrix + self.offset)
        return stacked_mix(stack, logits * (1.0 / self.temperature) + mapped, self.share)

    def __repr__(self) -> str:
        return f"FeatureScaling(temperature={self.temperature!r}, matrix={self.matrix.shape}, strength={self.strength})"


def shown_parameters(calibrator: Calibrator) -> Parameters:
    """A calibrator's parameters for people; large tables are shown by their shape."""
    return {name: _shown(value) for name, value in calibrator.parameters().items()}


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [_shown(part) for part in value]
    table = np.asarray(value)
    return value if table.size <= _SHOWN_PARAMETERS else f"{' × '.join(map(str, table.shape))} numbers"


def cross_fit_features(
    logits: Floats,
    features: ArrayLike,
    targets: Ints,
    folds: Sequence[Ints],
    *,
    weights: Floats | None = None,
    fine_folds: Sequence[Ints] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[FeatureScaling, Floats]:
    """The map with the ridge strength of lowest cross-fitted NLL, and its cross-fitted calibrated logits (N, K).

    Strengths are tried from the strongest down until the NLL rises. The last temperature and uniform mix are fitted
    on the cross-fitted logits: on rows it was not fitted on the map is too sure.

    Args:
        folds: indices of the rows that are left out together; each row is in exactly one.
        fine_folds: more of them, on which the chosen map is cross-fitted again: with a fifth of the rows left out it
            looks worse than it will be, and would be tempered too far.
    """
    seen = np.asarray(features, np.float64)
    lowest, strength, held_out = np.inf, strengths[0], np.zeros_like(logits)
    for tried in strengths:
        cross_fitted = _held_out(logits, seen, targets, folds, tried, weights)
        fitted = MixtureScaling().fit(cross_fitted, targets, weights=weights)(cross_fitted)
        nll = float(np.average(-log_softmax(fitted)[np.arange(len(targets)), targets], weights=weights))
        if nll >= lowest:
            break
        lowest, strength, held_out = nll, tried, cross_fitted
    if fine_folds is not None:
        held_out = _held_out(logits, seen, targets, fine_folds, strength, weights)
    last = MixtureScaling().fit(held_out, targets, weights=weights)
    whole = FeatureScaling(strength=strength).fit(logits, targets, weights=weights, features=seen)
    return whole.then(last), last(held_out)


def _held_out(
    logits: Floats, features: Floats, targets: Ints, folds: Sequence[Ints], strength: float, weights: Floats | None
) -> Floats:
    held_out = np.empty_like(logits, dtype=np.float64)
    for rows in folds:
        others = np.setdiff1d(np.arange(len(targets)), rows)
        weighed = None if weights is None else weights[others]
        fitted = FeatureScaling(strength=strength)
        fitted.fit(logits[others], targets[others], weights=weighed, features=features[others])
        held_out[rows] = fitted(logits[rows], features[rows])
    return held_out


def _checked(features: ArrayLike | None, logits: ArrayLike) -> Floats:
    if features is None:
        raise ValueError("features (N, D) are needed beside the logits")
    seen, rows = np.asarray(features, np.float64), len(np.asarray(logits))
    if seen.ndim != 2 or len(seen) != rows or not np.isfinite(seen).all():
        raise ValueError(f"features must be ({rows}, D) and finite, got {seen.shape}")
    return seen


def _ridge(features: Floats, offsets: Floats, targets: Ints, rows: Floats, strength: float) -> tuple[Floats, Floats]:
    """W (D, K), b (K,) of the smallest Σ rows·NLL(offsets + f·W + b) + strength·(|W|² + 0.1·|b|²), by L-BFGS."""
    from scipy.optimize import minimize  # loaded where calibrators are fitted: 50 MB that serving does without

    seen = np.column_stack([features, np.ones(len(features))])  # the offset is the weight of a feature that is one
    shape, right = (seen.shape[1], offsets.shape[1]), (np.arange(len(targets)), targets)
    ridge = np.full((shape[0], 1), strength)
    ridge[-1] *= _OFFSET_SHARE

    def value_and_slope(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        logs = log_softmax(offsets + seen @ weights)
        residuals = np.exp(logs)
        residuals[right] -= 1
        slope = seen.T @ (rows[:, None] * residuals) + 2 * ridge * weights
        return float((ridge * weights**2).sum() - rows @ logs[right]), slope.ravel()

    optimum = minimize(value_and_slope, np.zeros(math.prod(shape)), method="L-BFGS-B", jac=True, options=_STOPPING)
    fitted = optimum.x.reshape(shape)
    return fitted[:-1], fitted[-1]
