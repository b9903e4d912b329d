"""Typicality and conformal quantiles: figures of new rows by their rank among rows that were held back.

A softmax is confident far from all that it was trained on; the features show the distance. `Typicality` turns it into
the share of calibration rows that are at least as untypical: 0.002 means two in a thousand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.profiles import ScoreQuantiles
from fedlas.metrics.statistics import Floats, Ints

#: A row differs by about 1e-7 between runtimes and batch sizes; nothing is decided by less than this.
MARGIN = 1e-6
#: Levels whose quantiles are kept exactly; others between them are answered with the next higher one.
LEVELS = np.concatenate(
    [np.arange(1, 10) / 20, np.arange(100, 198) / 200, np.arange(1980, 2000) / 2000, [0.9999, 0.99999]]
)
#: A class's own quantiles are kept at fewer levels, since there may be a thousand classes.
CLASS_LEVELS = np.concatenate([np.arange(1, 10) / 10, [0.75, 0.85, 0.95, 0.97, 0.975, 0.98, 0.99, 0.995, 0.999]])


@dataclass(frozen=True)
class Quantiles:
    """Scores at some ranks of n rows, from which any coverage is answered, rounded up.

    `room` is how many rows one new group may have (1 without groups): they count as if they lay above every score.
    """

    num_rows: int
    room: int
    ranks: Ints
    scores: Floats

    @classmethod
    def of(cls, document: ScoreQuantiles) -> Quantiles:
        return cls(document.num_rows, document.room, np.array(document.ranks), np.array(document.scores))

    @classmethod
    def fit(cls, scores: Floats, room: int, levels: Floats) -> Quantiles:
        n = len(scores)
        wanted = np.ceil((n + room) * np.unique(np.sort(levels)) - 1e-9).astype(np.int64)
        ranks = np.unique(np.append(wanted[(wanted >= 1) & (wanted <= n)], n)) if n else np.zeros(0, np.int64)
        kept = np.sort(scores)[ranks - 1] if n else np.zeros(0)
        return cls(n, room, ranks, np.minimum(1, np.round(np.ceil(kept / MARGIN + 1) * MARGIN, 6)))

    @property
    def reachable(self) -> float:
        """The largest coverage that so few rows guarantee."""
        return math.floor(1e6 * self.num_rows / (self.num_rows + self.room)) / 1e6

    def at(self, coverage: float) -> float | None:
        """The score that covers, or None where there are too few rows."""
        at = int(np.searchsorted(self.ranks, math.ceil((self.num_rows + self.room) * coverage - 1e-9)))
        return float(self.scores[at]) if at < len(self.ranks) else None


TypicalityScore = Literal["mahalanobis", "norm"]

MAX_RANK = 128
MAX_ROWS = 5_000
MAX_KNOTS = 64
_FOLDS = 5
#: The covariance is drawn this far to a multiple of the identity, so that few rows do not make a direction seem empty.
_SHRINKAGE = 0.05
#: Share of the mean variance that the directions within classes, and those left over, have at least. The graph computes
#: distances in float32, where far apart classes of hardly any width would cancel to noise (1e-6: errors up to 0.78).
_FLOOR = 1e-3


@dataclass(frozen=True)
class Gaussians:
    """Class means (K, R) in R whitened directions of the features, and one variance for all other directions."""

    mean: Floats
    directions: Floats
    whitening: Floats
    class_means: Floats
    residual_scale: float  # 1 / standard deviation; 0 where no direction is left

    @classmethod
    def fit(cls, features: Floats, targets: Ints, rng: np.random.Generator) -> Gaussians:
        n, dim = features.shape
        mean = features.mean(axis=0)
        centred = features - mean
        variance = float((centred**2).sum()) / n or 1.0
        directions = _principal_directions(centred, min(dim, MAX_RANK, max(1, n // 4)), rng)
        rank = directions.shape[1]
        inside = centred @ directions
        classes, members = np.unique(targets, return_inverse=True)
        class_means = np.stack([inside[members == k].mean(axis=0) for k in range(len(classes))])
        within = inside - class_means[members]
        covariance = within.T @ within / n
        level = max(float(np.trace(covariance)) / rank, _FLOOR * variance / dim)
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * level * np.eye(rank)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
        left = max(0.0, variance - float((inside**2).sum()) / n) / max(1, dim - rank)
        scale = 0.0 if rank == dim else max(left, _FLOOR * variance / dim) ** -0.5
        return cls(mean, directions, whitening, class_means @ whitening, scale)

    def __call__(self, features: Floats) -> Floats:
        """Squared distance (N,) to the nearest class mean."""
        centred = features - self.mean
        inside = centred @ self.directions
        white = inside @ self.whitening
        square = (white**2).sum(axis=1, keepdims=True)
        to_means = square - 2 * white @ self.class_means.T + (self.class_means**2).sum(axis=1)
        left = self.residual_scale * (centred - inside @ self.directions.T)
        return np.asarray(to_means.min(axis=1) + (left**2).sum(axis=1))


@dataclass(frozen=True)
class Norm:
    """Distance (N,) of ‖f‖₁ from its median, in both directions: untypical rows may be long as well as short."""

    median: float

    @classmethod
    def fit(cls, features: Floats, targets: Ints, rng: np.random.Generator) -> Norm:
        return cls(float(np.median(np.abs(features).sum(axis=1))))

    def __call__(self, features: Floats) -> Floats:
        return np.asarray(np.abs(np.abs(features).sum(axis=1) - self.median))


class Typicality:
    """The share of calibration rows that are at least as untypical as a row: small means untypical.

    Two measures of distance: `"mahalanobis"`, the distance to the nearest class mean under one covariance (Lee et
    al. 2018, arXiv 1807.03888; at most `MAX_RANK` principal directions, the rest shares one variance, so that 2,048
    features or fewer rows than features are no trouble), and `"norm"`, the distance of FedLAS's ‖f‖₁ from its median.
    """

    def __init__(self, measure: Gaussians | Norm, knots: Floats, values: Floats, num_rows: int, dim: int) -> None:
        self.measure, self.knots, self.values = measure, knots, values
        self.num_rows, self.feature_dim = num_rows, dim

    @property
    def score(self) -> TypicalityScore:
        return "norm" if isinstance(self.measure, Norm) else "mahalanobis"

    @classmethod
    def fit(
        cls,
        features: ArrayLike,
        targets: ArrayLike | None = None,
        *,
        score: TypicalityScore = "mahalanobis",
        seed: int = 0,
    ) -> Typicality:
        """Fit on features (N, D) of calibration rows; without class indices (N,) there is one mean for all.

        The distances of the calibration rows are cross-fitted, since a covariance makes the rows that it
        was fitted on look closer than new ones. Of more than `MAX_ROWS` rows a random part is used.

        Raises:
            ValueError: features are not (N, D) finite numbers with N >= 2, targets do not fit, an unknown score.
        """
        rows, labels = _checked(features, targets)
        if score not in get_args(TypicalityScore):
            raise ValueError(f"score must be one of {get_args(TypicalityScore)}, got {score!r}")
        kind = Norm if score == "norm" else Gaussians
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(rows))[:MAX_ROWS]
        rows, labels = rows[order], labels[order]
        fold = np.arange(len(rows)) % min(_FOLDS, len(rows))
        distances = np.empty(len(rows))
        for k in range(int(fold.max()) + 1):
            distances[fold == k] = kind.fit(rows[fold != k], labels[fold != k], rng)(rows[fold == k])
        knots, values = _survival(distances)
        return cls(kind.fit(rows, labels, rng), knots, values, len(rows), rows.shape[1])

    def distance(self, features: ArrayLike) -> Floats:
        """The distance (N,) itself, which has no upper end."""
        rows, _ = _checked(features, None, least=0)
        if rows.shape[1] != self.feature_dim:
            raise ValueError(f"features must be (N, {self.feature_dim}), got {rows.shape}")
        return self.measure(rows)

    def __call__(self, features: ArrayLike) -> Floats:
        """Typicality (N,) in (0, 1] for features (N, D)."""
        return np.interp(self.distance(features), self.knots, self.values)


def _checked(features: ArrayLike, targets: ArrayLike | None, *, least: int = 2) -> tuple[Floats, Ints]:
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or len(rows) < least or rows.shape[1] < 1:
        raise ValueError(f"features must be (N, D) with N >= {least} and D >= 1, got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"features must be finite, row {np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]} is not")
    labels = np.zeros(len(rows), np.int64) if targets is None else np.asarray(targets)
    if labels.shape != (len(rows),):
        raise ValueError(f"targets must be ({len(rows)},), one for each row, got {labels.shape}")
    return rows, labels.astype(np.int64)


def _principal_directions(centred: Floats, rank: int, rng: np.random.Generator) -> Floats:
    """Orthonormal directions (D, R) of the largest variance.

    Many features are reduced by random projection with two power iterations first (Halko et al. 2011, arXiv
    0909.4061), since only `rank` of the directions are wanted.
    """
    dim = centred.shape[1]
    if min(centred.shape) > 2 * rank:
        basis = rng.standard_normal((dim, rank + 16))
        for _ in range(3):
            basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
        _, _, rows = np.linalg.svd(centred @ basis, full_matrices=False)
        directions: Floats = basis @ rows[:rank].T
    else:
        directions = np.linalg.svd(centred, full_matrices=False)[2][:rank].T
    return directions


def _survival(distances: Floats) -> tuple[Floats, Floats]:
    """At most `MAX_KNOTS` points of "(1 + number of rows at least as far) / (n + 1)", half of them in the tail."""
    n = len(distances)
    ordered = np.sort(distances)
    shares = np.concatenate([np.linspace(1, 0.1, 24), np.geomspace(0.1, 1 / n, MAX_KNOTS - 25)])
    knots = np.unique(ordered[n - np.clip(np.ceil(n * shares - 1e-9).astype(np.int64), 1, n)])
    values = (1 + n - np.searchsorted(ordered, knots)) / (n + 1)
    return np.append(knots, 1.5 * knots[-1] + 1e-6), np.append(values, 1 / (n + 1))
