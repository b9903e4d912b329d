"""Metrics of serving, per model and version: one row of float64 for each, which is added, copied and stored whole.

A row holds plain counters, histograms, and the compute seconds of each bucket of batch sizes. Every request is counted,
so the numbers are items of an `array`, which takes half the time of NumPy's, under a NumPy view of the same memory.
"""

from __future__ import annotations

import math
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]  # (WIDTH,)
#: How a request may end.
OUTCOMES = ("ok", "refused", "overloaded", "deadline", "gone", "failed")
#: The place of each outcome.
REQUESTS = {outcome: place for place, outcome in enumerate(OUTCOMES)}
ROWS = len(OUTCOMES)
ABSTENTIONS = ROWS + 1
FAILED_SECONDS = ROWS + 2
LAST_REQUEST = ROWS + 3
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Models with series of their own: each is about 100 series, 11 KB of text and 0.1 ms of a scrape.
MAX_MODELS = 200
_SILENT_S = 3600.0
_SEARCH_PAUSE_S = 60.0


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
        return self.start + len(self.edges) + 1

    @property
    def end(self) -> int:
        return self.sum + 1

    def counts(self, row: Row) -> Row:
        """(len(edges) + 1,) how many values fell into each bucket, not cumulated; a view."""
        return row[self.start : self.sum]


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


# Needs of every request, without the way through an object.
_REQUEST = REQUEST_SECONDS.start
_REQUEST_SUM = REQUEST_SECONDS.sum
_QUEUE = QUEUE_SECONDS.start
_QUEUE_SUM = QUEUE_SECONDS.sum
_COMPUTE = COMPUTE_SECONDS.start
_COMPUTE_SUM = COMPUTE_SECONDS.sum
_SIZES = BATCH_ROWS.edges
_SIZE = BATCH_ROWS.start
_SIZE_SUM = BATCH_ROWS.sum
_CONFIDENCE_EDGES = np.array(CONFIDENCE.edges, dtype=np.float32)  # as confidences are
_CONFIDENCE_PLACES = len(CONFIDENCE.edges) + 1


class ModelMetrics:
    """The counts of one model; thread-safe. Meant for one request or batch: then ask `ServingMetrics.of` again."""

    __slots__ = ("_confidences", "_known_since", "_lock", "_numbers", "_row")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._known_since = time.time()
        self._use(array("d", bytes(8 * WIDTH)))

    def _use(self, numbers: array[float]) -> None:
        self._numbers = numbers
        self._row: Row = np.frombuffer(numbers)
        self._confidences = CONFIDENCE.counts(self._row)

    def request(self, outcome: str, rows: int, seconds: float, abstained: int = 0) -> None:
        """Count a request that has ended; rows, abstentions and the histogram only of those that were answered.

        `outcome` is one of `OUTCOMES`; raises KeyError for any other.
        """
        now = time.time()
        with self._lock:
            numbers = self._numbers
            numbers[REQUESTS[outcome]] += 1
            numbers[LAST_REQUEST] = now
            if outcome == "ok":
                numbers[_REQUEST + bisect_left(SECONDS, seconds)] += 1
                numbers[_REQUEST_SUM] += seconds
                numbers[ROWS] += rows
                if abstained:
                    numbers[ABSTENTIONS] += abstained
            else:
                numbers[FAILED_SECONDS] += seconds

    def batch(self, rows: int, requests: int, queue_seconds: float, compute_seconds: float) -> None:
        """Count a batch that was run.

        `queue_seconds` is the sum over the `requests` whose first rows are in it: sum and number of the waiting times
        are exact, while all of a batch fall into the bucket of their mean.
        """
        size = bisect_left(_SIZES, rows)
        waited = bisect_left(SECONDS, queue_seconds / requests) if requests else 0
        took = bisect_left(SECONDS, compute_seconds)
        with self._lock:
            numbers = self._numbers
            numbers[_QUEUE + waited] += requests
            numbers[_QUEUE_SUM] += queue_seconds
            numbers[_COMPUTE + took] += 1
            numbers[_COMPUTE_SUM] += compute_seconds
            numbers[_SIZE + size] += 1
            numbers[_SIZE_SUM] += rows
            numbers[COMPUTE_BY_ROWS + size] += compute_seconds

    def confidences(self, values: np.ndarray) -> None:
        """Count the confidences (N,) of a batch; what is no number would spoil the sum for good and is left out."""
        values = np.asarray(values, dtype=np.float32)
        total = float(values.sum(dtype=np.float64))
        if not math.isfinite(total):
            values = values[np.isfinite(values)]
            total = float(values.sum(dtype=np.float64))
        counts = np.bincount(_CONFIDENCE_EDGES.searchsorted(values), minlength=_CONFIDENCE_PLACES)
        with self._lock:
            self._confidences += counts
            self._numbers[CONFIDENCE.sum] += total

    def row(self) -> Row:
        """(WIDTH,) a copy of the numbers as they are now."""
        with self._lock:
            return self._row.copy()

    def last_used(self) -> float:
        return max(self._numbers[LAST_REQUEST], self._known_since)

    def join(self, other: ModelMetrics) -> None:
        """Count there from now on; the caller holds the lock."""
        self._use(other._numbers)


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value that is read at a scrape; one that counts never falls."""

    name: str
    help: str
    function: Callable[[], float]
    counts: bool = False


@dataclass(frozen=True, slots=True)
class OtherProcesses:
    """The counts of the other processes of this service, and the gauges of those that live."""

    counts: Sequence[Mapping[ModelKey, Row]]
    gauges: Sequence[Mapping[str, float]]


class ServingMetrics:
    """The counts of all models; `of` is for models that were found: a client that guesses names must not make it grow.

    It remembers `most_models` names with their versions. When there is no room, one that was silent for an hour is
    forgotten; if none was, the new one is counted under `OTHER`. Forgotten counts are dropped: added to `OTHER` they
    would look like a burst of requests.
    """

    def __init__(self, *, most_models: int = MAX_MODELS) -> None:
        self._most_models = most_models
        self._lock = Lock()  # one for all: held for a microsecond, and what is forgotten changes places under it
        self._models: dict[ModelKey, ModelMetrics] = {}
        #: The counts of requests that have ended before it was known which model they meant: `OTHER`.
        self.unknown = ModelMetrics(self._lock)
        self._search_again = 0.0
        self._gauges: list[Gauge] = []
        #: Set where other processes of this service are known.
        self.others: Callable[[], OtherProcesses] = lambda: OtherProcesses((), ())

    def of(self, name: str, version: str, model_id: str) -> ModelMetrics:
        # A plain tuple is equal to its Key and is made in less time.
        metrics = self._models.get((name, version, model_id))  # type: ignore[call-overload]
        return metrics if metrics is not None else self._added(ModelKey(name, version, model_id))

    def gauge(self, name: str, help: str, function: Callable[[], float]) -> None:
        """Register a value to be read at each scrape; those of all processes are added up."""
        self._gauges.append(Gauge(name, help, function))

    def counter(self, name: str, help: str, function: Callable[[], float]) -> None:
        """Register a value that never falls while this process lives; its samples are named `…_total`."""
        self._gauges.append(Gauge(name, help, function, counts=True))

    def load(self, sessions: Callable[[], int], size: Callable[[], int], queued: Callable[[], int]) -> None:
        self.gauge("fedlas_sessions_open", "Models that are kept open.", sessions)
        self.gauge("fedlas_session_bytes", "Size of the files of the models that are kept open.", size)
        self.gauge("fedlas_queued_rows", "Rows that wait for their batch.", queued)

    def own(self) -> Counts:
        with self._lock:
            models = list(self._models.items())
        counts = {key: model.row() for key, model in models}
        other = self.unknown.row()
        return {**counts, OTHER: other} if other.any() else counts

    def own_gauges(self) -> dict[str, float]:
        return {gauge.name: float(gauge.function()) for gauge in self._gauges}

    def everywhere(self) -> tuple[Counts, list[tuple[Gauge, float]]]:
        own, others = self.own(), self.others()  # in this order: a model that is counted there is not forgotten here
        values = (self.own_gauges(), *others.gauges)
        gauges = [(gauge, sum(value.get(gauge.name, 0.0) for value in values)) for gauge in self._gauges]
        return merged((own, *others.counts)), gauges

    def totals(self, name: str, version: str) -> Totals:
        """Counts for this name and version in all processes; zeros for what was never called."""
        places = (self.own(), *self.others().counts)
        return Totals.of(row for counts in places for key, row in counts.items() if key[:2] == (name, version))

    def all_totals(self) -> dict[tuple[str, str], Totals]:
        """Counts for each name and version that was called, in all processes, but for `OTHER`."""
        rows: dict[tuple[str, str], list[Row]] = {}
        for key, row in merged((self.own(), *self.others().counts)).items():
            if key != OTHER:
                rows.setdefault(key[:2], []).append(row)
        return {call: Totals.of(same) for call, same in sorted(rows.items())}

    def _added(self, key: ModelKey) -> ModelMetrics:
        with self._lock:
            if key in self._models:
                return self._models[key]
            if len(self._models) >= self._most_models and not self._made_room():
                return self.unknown
            self._models[key] = made = ModelMetrics(self._lock)
            return made

    def _made_room(self) -> bool:
        """Forget the model that was silent for longest; without success not looked for again for a while."""
        now = time.time()
        if now < self._search_again:
            return False
        key, model = min(self._models.items(), key=lambda item: item[1].last_used())
        if now - model.last_used() < _SILENT_S:
            self._search_again = now + _SEARCH_PAUSE_S
            return False
        del self._models[key]
        model.join(self.unknown)  # a request that still holds it is counted there
        return True
