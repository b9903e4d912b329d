"""Rows of many requests become batches: while one batch runs, what waits gathers into the next; nobody waits for more.

It knows one open model, and neither threads nor HTTP. Of a request with ten thousand rows only what small ones leave of
a batch is taken, so that a single row waits for the batches that are under way and no longer. A batch is no larger than
what takes about `BATCH_SECONDS` on this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from service.inference.outputs import Outputs, completed, joined
from service.inference.session import OpenModel
from service.registry.errors import InvalidRequest

#: About how long a batch may take: who comes while one runs, and another is next, waits for these two.
BATCH_SECONDS = 0.025


class Watch(Protocol):
    """Who wants to know what became of the rows of a request."""

    def batch(self, rows: int, requests: int, queue_seconds: float, compute_seconds: float) -> None:
        """So many of its rows were run; `queue_seconds` is summed over requests whose first rows these were."""

    def confidences(self, values: np.ndarray) -> None:
        """What came out."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request whose rows wait.

    Attributes:
        inputs: (rows, *row) by name.
        wants: outputs beyond the usual ones.
        key: what its rows must share with others of a batch: the shape of a row.
        taken: rows that were given to a batch.
    """

    inputs: Mapping[str, np.ndarray]
    rows: int
    wants: tuple[str, ...]
    future: asyncio.Future[Outputs]
    watch: Watch | None
    span: object | None
    key: tuple[object, ...]
    since: float
    taken: int = 0
    parts: dict[int, Outputs] = field(default_factory=dict)  # by first row: batches may end in any order

    @property
    def left(self) -> int:
        """Rows that are in no batch yet."""
        return self.rows - self.taken


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start:stop` of a request, which stand in a batch from `at` on."""

    request: Waiting
    start: int
    stop: int
    at: int


class Batch:
    """Rows that are run together."""

    __slots__ = ("ended", "model", "results", "rows", "slices", "started")

    def __init__(self, model: OpenModel, slices: list[Slice]) -> None:
        self.model = model
        self.slices = slices
        self.rows = slices[-1].at + slices[-1].stop - slices[-1].start
        self.started = self.ended = 0.0
        self.results: list[Outputs | Exception] = []

    def run(self) -> None:
        """Run it, here and now; every slice has its result afterwards, or why it has none."""
        self.started = time.perf_counter()
        wants = self.slices[0].request.wants
        for piece in self.slices:
            if piece.request.wants != wants:
                wants = tuple(dict.fromkeys((*wants, *piece.request.wants)))
        try:
            outputs = self._outputs(self.slices, wants)
            self.results = [_cut(outputs, piece) for piece in self.slices] if len(self.slices) > 1 else [outputs]
            self.ended = time.perf_counter()
            self.model.measured(self.rows, self.ended - self.started)
        except InvalidRequest as error:  # somebody's rows; the others are not to suffer for it
            self.results = [error] if len(self.slices) == 1 else [self._alone(piece, wants) for piece in self.slices]
            self.ended = time.perf_counter()
        except Exception as error:
            self.results = [error] * len(self.slices)
            self.ended = time.perf_counter()

    def _alone(self, piece: Slice, wants: tuple[str, ...]) -> Outputs | Exception:
        try:
            return self._outputs([piece], wants)
        except Exception as error:
            return error

    def _outputs(self, slices: list[Slice], wants: tuple[str, ...]) -> Outputs:
        first = slices[0]
        if len(slices) == 1:
            inputs = {name: array[first.start : first.stop] for name, array in first.request.inputs.items()}
        else:
            inputs = {
                name: np.concatenate([piece.request.inputs[name][piece.start : piece.stop] for piece in slices])
                for name in first.request.inputs
            }
        return completed(self.model.run(inputs, ("logits", "probabilities", "confidence", *wants)))

    def settle(self) -> None:
        """Give the requests what is theirs; on the event loop."""
        for piece, result in zip(self.slices, self.results, strict=True):
            request = piece.request
            if request.future.done():
                continue
            if isinstance(result, Exception):
                request.future.set_exception(result)
            elif piece.start == 0 and piece.stop == request.rows:
                request.future.set_result(result)
            else:
                request.parts[piece.start] = result
                if sum(len(part["index"]) for part in request.parts.values()) == request.rows:
                    request.future.set_result(joined([part for _, part in sorted(request.parts.items())]))
        self._tell()

    def _tell(self) -> None:
        """Tell each watch of its share."""
        shares: dict[Watch, list[tuple[Slice, Outputs | Exception]]] = {}
        for piece, result in zip(self.slices, self.results, strict=True):
            if piece.request.watch is not None:
                shares.setdefault(piece.request.watch, []).append((piece, result))
        for watch, share in shares.items():
            rows = sum(piece.stop - piece.start for piece, _ in share)
            queued = sum(self.started - piece.request.since for piece, _ in share if piece.start == 0)
            watch.batch(rows, len(share), queued, (self.ended - self.started) * rows / self.rows)
            found = [result["confidence"] for _, result in share if not isinstance(result, Exception)]
            if found:
                watch.confidences(found[0] if len(found) == 1 else np.concatenate(found))


class Line:
    """The requests that wait for one model."""

    def __init__(self, model: OpenModel, *, max_batch_rows: int) -> None:
        self.model = model
        self.rows = 0
        self.listed = False  # whether the engine knows that something waits here
        self._max_rows = max_batch_rows
        # One queue for each shape of row: what differs in length cannot be one batch.
        self._queues: OrderedDict[tuple[object, ...], deque[Waiting]] = OrderedDict()

    def add(self, request: Waiting) -> None:
        """Let it wait."""
        queue = self._queues.get(request.key)
        if queue is None:
            queue = self._queues[request.key] = deque()
        queue.append(request)
        self.rows += request.rows

    @property
    def capacity(self) -> int:
        """Rows of the next batch at most."""
        per_row = self.model.per_row
        return max(1, min(self._max_rows, int(BATCH_SECONDS / per_row) if per_row > 0 else self._max_rows))

    @property
    def full(self) -> bool:
        """Whether the next batch would be no larger if it waited."""
        return self.rows >= self.capacity

    def next_cost(self) -> float:
        """About how many seconds the next batch takes."""
        return self.model.cost(min(self.rows, self.capacity))

    def take(self) -> Batch | None:
        """The next batch; None if nobody waits (any more)."""
        while self._queues:
            key, queue = self._queues.popitem(last=False)
            slices = self._slices(queue)
            if queue:
                self._queues[key] = queue  # to the back: other shapes have their turn
            if slices:
                return Batch(self.model, slices)
        return None

    def _slices(self, queue: deque[Waiting]) -> list[Slice]:
        """What is no larger than an equal share of the room comes along whole, and the rest is for larger ones in turn.

        Were the rest divided, too, all who send large requests would be answered at the end of the last of them.
        """
        whole, large, spare = self._sorted_out(queue)
        chosen = [(request, request.left) for request in whole]
        waiting = []
        for request in large:
            count = min(spare, request.left)
            spare -= count
            if count > 0:
                chosen.append((request, count))
            else:
                waiting.append(request)
        queue.extendleft(reversed(waiting))  # they are next
        slices, at = [], 0
        for request, count in chosen:
            slices.append(Slice(request, request.taken, request.taken + count, at))
            at += count
            request.taken += count
            self.rows -= count
            if request.left:
                queue.append(request)
        return slices

    def _sorted_out(self, queue: deque[Waiting]) -> tuple[list[Waiting], list[Waiting], int]:
        """Take requests from the queue: those that come along whole, larger ones, and the rows there are for these."""
        room = self.capacity
        share = max(1, room // len(queue))
        whole, large = [], []
        spare = 0
        for _ in range(len(queue)):
            if room == 0:
                break
            request = queue.popleft()
            if request.future.done():  # the client has gone, or its time is up
                self.rows -= request.left
                continue
            part = min(share, request.left)
            room -= part
            if part == request.left:
                whole.append(request)
            else:
                large.append(request)
                spare += part
        return whole, large, spare + room


def _cut(outputs: Outputs, piece: Slice) -> Outputs:
    stop = piece.at + piece.stop - piece.start
    return {name: array[piece.at : stop] for name, array in outputs.items()}
