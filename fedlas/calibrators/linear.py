"""Vector and structured matrix scaling: penalised linear maps of the logits, which fall back to the temperature."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import MAX_LOGITS, Chain, Floats, Ints, LogitsCalibrator, centred, effective_count
from fedlas.calibrators.multinomial_regression import DiagonalMap, MatrixMap, fit_logit_map
from fedlas.calibrators.temperature import TemperatureScaling

#: Multiplications per pass (N·K²) and classes above which fitting a matrix would take minutes.
MAX_PRODUCT, MAX_CLASSES = 200_000_000, 256


class _LinearScaling(LogitsCalibrator):
    """A product of the logits less their row mean, plus an offset (K,)."""

    offset: Floats

    def transform(self, scores: Floats) -> Floats:
        if scores.shape[1] != len(self.offset):
            raise ValueError(f"logits must have {len(self.offset)} columns, got {scores.shape}")
        return self._product(centred(scores)) + self.offset

    def append_nodes(self, chain: Chain) -> None:
        chain.centre(len(self.offset))
        self._append_product(chain)
        chain.step("Add", chain.constant("offset", self.offset), result="sum")

    @abstractmethod
    def _product(self, scores: Floats) -> Floats: ...

    @abstractmethod
    def _append_product(self, chain: Chain) -> None: ...


class VectorScaling(_LinearScaling):
    """s̃∘v + b with logits s̃ less their row mean, a factor v and an offset b per class (Guo et al. 2017, 1706.04599).

    Mends base rates that have shifted. Penalised: with the temperature T fitted first it minimises
    `mean NLL + (K/N)·(‖Tv − 1‖² + ‖b‖²)`, so that with few rows per class it is the temperature and a class without
    rows keeps a finite offset (the strengths are those of arXiv 2511.03685).
    """

    name = "vector"

    def __init__(self, scale: ArrayLike = (1.0, 1.0), offset: ArrayLike = (0.0, 0.0)) -> None:
        self.scale, self.offset = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
        if self.scale.ndim != 1 or self.scale.shape != self.offset.shape or len(self.scale) < 2:
            raise ValueError(f"scale and offset must both be (K,), got {self.scale.shape} and {self.offset.shape}")
        if not (np.isfinite(self.scale).all() and np.isfinite(self.offset).all()):
            raise ValueError("scale and offset must be finite")

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        if scores.size > MAX_LOGITS:
            raise ValueError(f"VectorScaling needs logits with N·K <= {MAX_LOGITS}, got {scores.shape}")
        num_classes = scores.shape[1]
        temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        z = centred(scores) / temperature
        penalty = np.full((2, num_classes), num_classes / effective_count(rows))
        factors, self.offset = fit_logit_map(DiagonalMap(z), z, labels, rows, penalty)
        self.scale = (1.0 + factors) / temperature

    def _product(self, scores: Floats) -> Floats:
        return scores * self.scale

    def _append_product(self, chain: Chain) -> None:
        chain.step("Mul", chain.constant("scale", self.scale), result="product")

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return 2 * num_classes


class MatrixScaling(_LinearScaling):
    """s̃W + b with logits s̃ less their row mean; W = (I + D + M)/T, a temperature, a diagonal and the rest.

    Structured matrix scaling (Berta, Holzmüller, Jordan and Bach, arXiv 2511.03685): the temperature T is fitted first
    and unpenalised, then `mean NLL + λ·(‖D‖² + ‖b‖²) + (K − 1)·λ·‖M‖²` with λ = K/N is minimised, so that with few
    rows per parameter the map is the temperature. Beside theirs (the package `probmetrics`, ridge penalty): ours takes
    the row mean off the logits, so that logits and log-probabilities give the same map; its temperature is the plain
    one, not mixed with a constant; it is solved by Newton's method to the minimum, in NumPy; rows may have weights.
    """

    name = "structured_matrix"

    def __init__(self, matrix: ArrayLike = ((1.0, 0.0), (0.0, 1.0)), offset: ArrayLike = (0.0, 0.0)) -> None:
        self.matrix, self.offset = np.asarray(matrix, np.float64), np.asarray(offset, np.float64)
        if self.offset.ndim != 1 or len(self.offset) < 2 or self.matrix.shape != 2 * self.offset.shape:
            raise ValueError(
                f"matrix and offset must be (K, K) and (K,), got {self.matrix.shape} and {self.offset.shape}"
            )
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.offset).all()):
            raise ValueError("matrix and offset must be finite")

    def fit_rows(self, scores: Floats, labels: Ints, rows: Floats) -> None:
        num_rows, num_classes = scores.shape
        if num_classes > MAX_CLASSES or num_rows * num_classes**2 > MAX_PRODUCT:
            raise ValueError(
                f"MatrixScaling needs logits with K <= {MAX_CLASSES} and N·K² <= {MAX_PRODUCT}, got {scores.shape}"
            )
        temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        z = centred(scores) / temperature
        theta = fit_logit_map(MatrixMap(z), z, labels, rows, _penalty(effective_count(rows), num_classes))
        self.matrix, self.offset = (np.eye(num_classes) + theta[:-1]) / temperature, theta[-1]

    def _product(self, scores: Floats) -> Floats:
        return np.asarray(scores @ self.matrix)

    def _append_product(self, chain: Chain) -> None:
        chain.step("MatMul", chain.constant("matrix", self.matrix), result="product")

    @classmethod
    def num_parameters(cls, num_classes: int) -> int:
        return num_classes * (num_classes + 1)


def _penalty(num_rows: float, num_classes: int) -> Floats:
    """λ = K/N on diagonal and offset, (K − 1)·λ on everything else; shape (K + 1, K)."""
    strength = num_classes / num_rows
    penalty = np.full((num_classes + 1, num_classes), (num_classes - 1) * strength)
    penalty[np.arange(num_classes), np.arange(num_classes)] = strength
    penalty[-1] = strength
    return penalty
