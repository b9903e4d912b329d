"""Structured vector and matrix scaling: penalised linear maps of tempered log-probabilities.

Berta, Holzmüller, Jordan and Bach, "Structured matrix scaling for multi-class calibration" (arXiv 2511.03685), with the
ridge penalty and strengths of their package `probmetrics`. The temperature T is fitted first and unpenalised, so that
with few rows per parameter the map is the temperature. What it leaves is mixed with one row's worth of uniform
probabilities (w = 1/(N + 1)), so that no log-probability is far below −log(N·K), and logits and log-probabilities give
the same map. Beside theirs rows may have weights, N is then Kish's effective number of rows, and Newton's method goes
on to the minimum.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators.base import MAX_LOGITS, Chain, Floats, Ints, LogitsCalibrator, effective_count
from fedlas.calibrators.regression import DiagonalMap, MatrixMap, fit_logit_map
from fedlas.calibrators.temperature import MixtureScaling, TemperatureScaling

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

    def append_nodes(self, chain: Chain) -> None:
        self._tempered.append_nodes(chain)
        self._append_product(chain)
        chain.step("Add", chain.constant("offset", self.offset), result="sum")

    def _cool(self, scores: Floats, labels: Ints, rows: Floats) -> Floats:
        """Fit T and w; returns z (N, K)."""
        temperature = TemperatureScaling().fit(scores, labels, weights=rows).temperature
        self._tempered = MixtureScaling(temperature, 1.0 / (effective_count(rows) + 1.0), scores.shape[1])
        return self._tempered.transform(scores)

    @abstractmethod
    def _product(self, logs: Floats) -> Floats: ...

    @abstractmethod
    def _append_product(self, chain: Chain) -> None: ...


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

    def _append_product(self, chain: Chain) -> None:
        chain.step("Mul", chain.constant("scale", self.scale), result="product")


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

    def _append_product(self, chain: Chain) -> None:
        chain.step("MatMul", chain.constant("matrix", self.matrix), result="product")


def _penalty(num_rows: float, num_classes: int) -> Floats:
    """λ = K/N on diagonal and offset, (K − 1)·λ on everything else; shape (K + 1, K)."""
    strength = num_classes / num_rows
    penalty = np.full((num_classes + 1, num_classes), (num_classes - 1) * strength)
    penalty[np.arange(num_classes), np.arange(num_classes)] = strength
    penalty[-1] = strength
    return penalty
