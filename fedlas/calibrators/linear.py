"""Structured vector and matrix scaling: penalised linear maps of tempered log-probabilities.

Berta, Holzmüller, Jordan and Bach, "Structured matrix scaling for multi-class calibration" (arXiv 2511.03685), with the
ridge penalty and strengths of their package `probmetrics`. The temperature T is fitted first and unpenalised, so that
with few rows per parameter the map is the temperature. What it leaves is mixed with one row's worth of uniform
probabilities (w = 1/(N + 1)), so that no log-probability is far below −log(N·K), and logits and log-probabilities give
the same map. Beside theirs rows may have weights, N is then Kish's effective number of rows, and Newton's method goes
on to the minimum.

One-vs-rest scaling: a smooth increasing curve for each class, after structured matrix scaling.

Compressed scores are a saturated model's logits at a scale on which they can be calibrated. Naive Bayes takes dependent
features for independent ones: it says log-odds of a thousand, or of 10¹⁰, and is wrong all the same. A handful of such
rows then decides every slope. Their order is worth something, so that a floor, which makes them equal, loses more than
it mends. −A·log(1 − log p / A) hardly changes log p near 0 and grows like a logarithm.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import (
    MAX_LOGITS,
    Calibrator,
    Floats,
    Ints,
    LogitsCalibrator,
    MixtureScaling,
    Parameters,
    TemperatureScaling,
    effective_count,
    log_softmax,
    pair,
    softmax,
)
from fedlas.calibrators.regression import DiagonalMap, MatrixMap, fit_logit_map
from fedlas.calibrators.spline import SplineScaling, stacked_curves
from fedlas.calibrators.stack import TINY, Columns, Stack

#: Multiplications per pass (N·K²) and classes above which fitting a matrix would take minutes.
MAX_PRODUCT = 200_000_000
MAX_CLASSES = 256


class _LinearScaling(LogitsCalibrator):
    """A product of z = log((1 − w)·softmax(s/T) + w/K), plus an offset (K,)."""

    def __init__(self, offset: ArrayLike, temperature: float, share: float) -> None:
        self.offset = np.asarray(offset, np.float64)
        if self.offset.ndim != 1 or len(self.offset) < 2 or not np.isfinite(self.offset).all():
            raise ValueError(f"offset must be (K,) with K >= 2 and finite, got {self.offset.shape}")
        self._tempered = MixtureScaling(temperature, share, len(self.offset))

    @property
    def temperature(self) -> float:
        return self._tempered.temperature

    @property
    def share(self) -> float:
        return self._tempered.share

    def transform(self, scores: Floats) -> Floats:
        if scores.shape[1] != len(self.offset):
            raise ValueError(f"logits must have {len(self.offset)} columns, got {scores.shape}")
        return self._product(self._tempered.transform(scores)) + self.offset

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return self._stacked_product(self._tempered.stacked(stack, logits)) + self.offset

    def _cool(self, scores: Floats, labels: Ints, rows: Floats) -> Floats:
        """Fit T and w; returns z (N, K)."""
        temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        self._tempered = MixtureScaling(temperature, 1.0 / (effective_count(rows) + 1.0), scores.shape[1])
        return self._tempered.transform(scores)

    @abstractmethod
    def _product(self, logs: Floats) -> Floats: ...

    @abstractmethod
    def _stacked_product(self, logs: Columns) -> Columns: ...


class VectorScaling(_LinearScaling):
    """Structured vector scaling (SVS): z∘v + b with a factor v and an offset b per class.

    Mends base rates that have shifted. Minimises `mean NLL + (K/N)·(‖v − 1‖² + ‖b‖²)`, so that a class without rows
    keeps a finite offset; see the module. `probmetrics` calls it `SVSCalibrator`; without penalty and temperature it is
    the vector scaling of Guo et al. 2017 (arXiv 1706.04599).

    Args:
        scale, offset: v and b, both (K,).
        temperature, share: T and w of z = log((1 − w)·softmax(s/T) + w/K); z = s/T where w is 0.
    """

    name = "structured_vector"

    def __init__(
        self,
        scale: ArrayLike = (1.0, 1.0),
        offset: ArrayLike = (0.0, 0.0),
        temperature: float = 1.0,
        share: float = 0.0,
    ) -> None:
        super().__init__(offset, temperature, share)
        self.scale = np.asarray(scale, np.float64)
        if self.scale.shape != self.offset.shape or not np.isfinite(self.scale).all():
            raise ValueError(f"scale must be {self.offset.shape} and finite, got {self.scale.shape}")

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        if scores.size > MAX_LOGITS:
            raise ValueError(f"VectorScaling needs logits with N·K <= {MAX_LOGITS}, got {scores.shape}")
        num_classes = scores.shape[1]
        z = self._cool(scores, labels, rows)
        penalty = np.full((2, num_classes), num_classes / effective_count(rows))
        deviation, self.offset = fit_logit_map(DiagonalMap(z), z, labels, rows, penalty)
        self.scale = 1.0 + deviation

    def _product(self, logs: Floats) -> Floats:
        return logs * self.scale

    def _stacked_product(self, logs: Columns) -> Columns:
        return logs * self.scale


class MatrixScaling(_LinearScaling):
    """Structured matrix scaling (SMS): zW + b with W = I + D + M, a diagonal and the rest, and an offset b.

    Minimises `mean NLL + λ·(‖D‖² + ‖b‖²) + (K − 1)·λ·‖M‖²` with λ = K/N; see the module. `probmetrics` calls it
    `SMSCalibrator`.

    Args:
        matrix, offset: W (K, K) and b (K,).
        temperature, share: T and w of z = log((1 − w)·softmax(s/T) + w/K); z = s/T where w is 0.
    """

    name = "structured_matrix"

    def __init__(
        self,
        matrix: ArrayLike = ((1.0, 0.0), (0.0, 1.0)),
        offset: ArrayLike = (0.0, 0.0),
        temperature: float = 1.0,
        share: float = 0.0,
    ) -> None:
        super().__init__(offset, temperature, share)
        self.matrix = np.asarray(matrix, np.float64)
        if self.matrix.shape != 2 * self.offset.shape or not np.isfinite(self.matrix).all():
            raise ValueError(f"matrix must be {2 * self.offset.shape} and finite, got {self.matrix.shape}")

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        num_rows, num_classes = scores.shape
        if num_classes > MAX_CLASSES or num_rows * num_classes**2 > MAX_PRODUCT:
            raise ValueError(
                f"MatrixScaling needs logits with K <= {MAX_CLASSES} and N·K² <= {MAX_PRODUCT}, got {scores.shape}"
            )
        z = self._cool(scores, labels, rows)
        theta = fit_logit_map(MatrixMap(z), z, labels, rows, _penalty(effective_count(rows), num_classes))
        self.matrix, self.offset = np.eye(num_classes) + theta[:-1], theta[-1]

    def _product(self, logs: Floats) -> Floats:
        return np.asarray(logs @ self.matrix)

    def _stacked_product(self, logs: Columns) -> Columns:
        return logs @ self.matrix


def _penalty(num_rows: float, num_classes: int) -> Floats:
    """λ = K/N on diagonal and offset, (K − 1)·λ on everything else; shape (K + 1, K)."""
    strength = num_classes / num_rows
    penalty = np.full((num_classes + 1, num_classes), (num_classes - 1) * strength)
    penalty[np.arange(num_classes), np.arange(num_classes)] = strength
    penalty[-1] = strength
    return penalty


class OneVsRestScaling(MatrixScaling):
    """Probabilities σ(g_k(ln p_k − ln(1 − p_k))) made to sum to 1, with p of structured matrix scaling.

    Each g_k is a `SplineScaling` of "this class or another" (Zadrozny and Elkan 2002 calibrate more classes one against
    the rest, by isotonic curves). Where the network is more wrong for likely rows of a class than for unlikely ones, as
    naive Bayes is, no matrix mends it. Where the rows are likelier under curves of the logits as they came, those are
    taken (W = I, T = 1): a temperature that had to hide wrong certainties can leave nothing to see.

    Args:
        matrix, offset, temperature, share: see `MatrixScaling`.
        knots, slopes, heights: of the curves, (K, J), (K, J) and (K,); see `SplineScaling`.
    """

    name = "one_vs_rest"

    def __init__(
        self,
        matrix: ArrayLike = ((1.0, 0.0), (0.0, 1.0)),
        offset: ArrayLike = (0.0, 0.0),
        temperature: float = 1.0,
        share: float = 0.0,
        knots: ArrayLike = ((-1.0, 1.0), (-1.0, 1.0)),
        slopes: ArrayLike = ((1.0, 1.0), (1.0, 1.0)),
        heights: ArrayLike = (-1.0, -1.0),
    ) -> None:
        super().__init__(matrix, offset, temperature, share)
        shapes = np.shape(knots), np.shape(slopes), np.shape(heights)
        if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not shapes[0][:1] == shapes[2] == self.offset.shape:
            raise ValueError(f"knots and slopes must be (K, J), heights (K,) with K {len(self.offset)}, got {shapes}")
        curves = zip(np.asarray(knots), np.asarray(slopes), np.asarray(heights, np.float64).tolist(), strict=True)
        self._curves = [SplineScaling(*curve) for curve in curves]

    @property
    def knots(self) -> Floats:
        return np.stack([curve.knots for curve in self._curves])

    @property
    def slopes(self) -> Floats:
        return np.stack([curve.slopes for curve in self._curves])

    @property
    def heights(self) -> Floats:
        return np.array([curve.height for curve in self._curves])

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        super().fit_rows(scores, labels, rows)
        scaled, plain = (_fitted_curves(logits, labels, rows) for logits in (super().transform(scores), scores))
        if plain.nll < scaled.nll:
            num_classes = scores.shape[1]
            self.matrix, self.offset = np.eye(num_classes), np.zeros(num_classes)
            self._tempered = MixtureScaling(num_classes=num_classes)
        self._curves = min(scaled, plain, key=lambda fitted: fitted.nll).curves

    def transform(self, scores: Floats) -> Floats:
        return _log_sigmoids(self._curves, _against_the_rest(super().transform(scores)))

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        probs = stack.softmax(super().stacked(stack, logits))
        tiny = np.full(probs.width, TINY)
        rest = stack.apply("Log", probs @ (1.0 - np.eye(probs.width)) + tiny)
        curved = stacked_curves(stack, stack.apply("Log", probs + tiny) - rest, self._curves)
        return stack.apply("Softplus", curved * -1.0) * -1.0


class _Fitted(NamedTuple):
    curves: list[SplineScaling]
    nll: float


def _fitted_curves(logits: Floats, labels: Ints, rows: Floats) -> _Fitted:
    """A curve for each class, and the NLL of the rows that they were fitted on."""
    against, curves = _against_the_rest(logits), []
    for k, log_odds in enumerate(against.T):
        curves.append(SplineScaling())
        curves[k].fit_rows(pair(log_odds), (labels == k).astype(np.int64), rows)
    logs = log_softmax(_log_sigmoids(curves, against))
    return _Fitted(curves, -float(rows @ logs[np.arange(len(labels)), labels]))


def _log_sigmoids(curves: Sequence[SplineScaling], against: Floats) -> Floats:
    curved = [curve.curve(log_odds) for curve, log_odds in zip(curves, against.T, strict=True)]
    return -np.logaddexp(0.0, -np.stack(curved, axis=1))


def _against_the_rest(logits: Floats) -> Floats:
    """ln p_k − ln(1 − p_k) (N, K) of p = softmax(logits); 1 − p_k is summed from the others, without cancellation."""
    probs = softmax(logits)
    return np.log(probs + TINY) - np.log(probs @ (1.0 - np.eye(probs.shape[1])) + TINY)


#: Nats from which on log-probabilities are compressed rather than kept (chosen among 4 and 16 on four tables).
SCALE = 4.0
#: A class of a probability under this in more than so many of the rows: the spacing of float32 at 1.
_EPSILON = float(np.finfo(np.float32).eps)
_SHARE = 0.01


class Compressed(Calibrator):
    """Another calibrator, on −A·log(1 − log p / A) for log-probabilities log p of the logits and A = `SCALE`.

    >>> from fedlas.calibrators import TemperatureScaling
    >>> Compressed(TemperatureScaling(2.0))([[1e10, 0.0], [1.0, 0.0]]).round(2).tolist()
    [[0.0, -43.28], [-0.15, -0.57]]
    """

    name = "compressed"

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator
        self.keeps_order = calibrator.keeps_order

    def fit(self, logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None) -> Self:
        self.calibrator.fit(compressed(logits), targets, weights=weights)
        return self

    def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> Floats:
        return self.calibrator(compressed(logits), features)

    def parameters(self) -> Parameters:
        return {"calibrator": {"name": self.calibrator.name, "parameters": self.calibrator.parameters()}}

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        sizes = stack.log_softmax(logits) * (-1 / SCALE) + np.ones(logits.width)
        return self.calibrator.stacked(stack, stack.apply("Log", sizes) * -SCALE, features)


def compressed(logits: ArrayLike) -> Floats:
    """−A·log(1 − log p / A) of logits (N, K), which keeps the order of the classes."""
    return np.asarray(-SCALE * np.log1p(-log_softmax(np.asarray(logits, np.float64)) / SCALE), np.float64)


def is_saturated(logits: ArrayLike) -> bool:
    """True where more than a hundredth of the rows (N, K) say that some class is as good as impossible."""
    return bool(np.mean(softmax(logits).min(axis=1) < _EPSILON) > _SHARE)
