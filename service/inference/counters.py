"""The layout of a model's counters: one row of float64, which is added, copied and stored whole.

A row holds plain counters, histograms, and the compute seconds of each bucket of batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]  # (WIDTH,)
#: How a request may end.
OUTCOMES = ("ok", "refused", "overloaded", "deadline", "gone", "failed")


class ModelKey(NamedTuple):
    """The model that is counted: the name as called (published name or id), the version, and the model's id."""

    name: str
    version: str
    model_id: str


#: Counts models beyond the limit; no model has an empty id.
OTHER = ModelKey("other", "", "")
Counts = dict[ModelKey, Row]


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's part of a row: a place for each upper edge (inclusive), one for what is larger, one for the sum."""

    edges: tuple[float, ...]
    start: int

    @property
    def sum(self) -> int:
        """The place of the sum."""
        return self.start + len(self.edges) + 1

    @property
    def end(self) -> int:
        """The first place that is not its own."""
        return self.sum + 1

    def counts(self, row: Row) -> Row:
        """(len(edges) + 1,) how many values fell into each bucket, not cumulated; a view."""
        return row[self.start : self.sum]


#: The place of each outcome.
REQUESTS = {outcome: place for place, outcome in enumerate(OUTCOMES)}
ROWS, ABSTENTIONS, FAILED_SECONDS, LAST_REQUEST = range(len(OUTCOMES), len(OUTCOMES) + 4)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REQUEST_SECONDS = Buckets(SECONDS, LAST_REQUEST + 1)
QUEUE_SECONDS = Buckets(SECONDS, REQUEST_SECONDS.end)
COMPUTE_SECONDS = Buckets(SECONDS, QUEUE_SECONDS.end)
BATCH_ROWS = Buckets(tuple(2.0**power for power in range(15)), COMPUTE_SECONDS.end)
CONFIDENCE = Buckets((*(percent / 100 for percent in range(5, 100, 5)), 0.99, 1.0), BATCH_ROWS.end)
COMPUTE_BY_ROWS = CONFIDENCE.end
WIDTH = COMPUTE_BY_ROWS + len(BATCH_ROWS.edges) + 1


def added(row: Row, more: Row) -> Row:
    """Both together: all numbers are sums, but for the last request, which is the latest."""
    both = row + more
    both[LAST_REQUEST] = max(row[LAST_REQUEST], more[LAST_REQUEST])
    return both


def merged(places: Iterable[Mapping[ModelKey, Row]]) -> Counts:
    """The counts of several places together."""
    together: Counts = {}
    for counts in places:
        for key, row in counts.items():
            together[key] = added(together[key], row) if key in together else row
    return together


def latest(counts: Counts, most: int) -> Counts:
    """The counts of the `most` models that were asked last, and `OTHER`."""
    if len(counts) <= most:
        return counts
    models = sorted(counts.keys() - {OTHER}, key=lambda key: counts[key][LAST_REQUEST], reverse=True)
    kept = {OTHER, *models[:most]}
    return {key: row for key, row in counts.items() if key in kept}


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts of a name and version since the service started."""

    requests_ok: int
    requests_failed: int
    rows: int
    batches: int
    batched_requests: int  # once for each batch that a request has rows in
    queue_seconds: float
    compute_seconds: float
    request_seconds: float  # of those that were answered
    failed_seconds: float  # of those that were not
    last_request_at: int  # milliseconds since 1970, 0 if there was none
    batch_sizes: dict[int, tuple[int, float]]  # up to this many rows, a power of two -> batches, compute seconds

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Totals:
        """Of all these rows together."""
        row = reduce(added, rows, np.zeros(WIDTH))
        sizes, by_rows = BATCH_ROWS.counts(row), row[COMPUTE_BY_ROWS:WIDTH]
        answered = row[REQUESTS["ok"]]
        return cls(
            requests_ok=int(answered),
            requests_failed=int(row[: len(OUTCOMES)].sum() - answered),
            rows=int(row[ROWS]),
            batches=int(sizes.sum()),
            batched_requests=int(QUEUE_SECONDS.counts(row).sum()),
            queue_seconds=float(row[QUEUE_SECONDS.sum]),
            compute_seconds=float(row[COMPUTE_SECONDS.sum]),
            request_seconds=float(row[REQUEST_SECONDS.sum]),
            failed_seconds=float(row[FAILED_SECONDS]),
            last_request_at=round(1000 * float(row[LAST_REQUEST])),
            batch_sizes={2**k: (int(sizes[k]), float(by_rows[k])) for k in np.flatnonzero(sizes).tolist()},
        )
