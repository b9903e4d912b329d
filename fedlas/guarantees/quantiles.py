"""Conformal quantiles: the score 1 - p of the true class that covers a given share of new rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from fedlas.metrics._checks import Floats, Ints

#: The same row differs by about 1e-7 between runtimes and batch sizes; nothing is decided by less than this.
MARGIN = 1e-6
#: Levels whose quantiles are kept exactly; others between them are answered with the next higher one.
LEVELS = np.concatenate(
    [np.arange(1, 10) / 20, np.arange(100, 198) / 200, np.arange(1980, 2000) / 2000, [0.9999, 0.99999]]
)
#: A class's own quantiles are kept at fewer levels, since there may be a thousand classes.
CLASS_LEVELS = np.concatenate([np.arange(1, 10) / 10, [0.75, 0.85, 0.95, 0.97, 0.975, 0.98, 0.99, 0.995, 0.999]])


class QuantilesDocument(TypedDict):
    """`Quantiles` as JSON."""

    num_rows: int
    room: int
    ranks: list[int]
    scores: list[float]


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
        rank = math.ceil((self.num_rows + self.room) * coverage - 1e-9)
        at = int(np.searchsorted(self.ranks, rank))
        return float(self.scores[at]) if at < len(self.ranks) else None

    @classmethod
    def from_dict(cls, content: QuantilesDocument) -> Quantiles:
        ranks, scores = np.asarray(content["ranks"], np.int64), np.asarray(content["scores"], np.float64)
        return cls(int(content["num_rows"]), int(content["room"]), ranks, scores)
