"""The batcher: queued requests of one model, and batches of their rows that run together.

A batch hands out its outputs in the thread that ran it: rows of a request that several batches share are written into
arrays of the whole request there, so that the event loop copies nothing however large an answer is.

While one batch runs the next one gathers. A small request goes into it whole; a large one fills what small ones leave,
so that a single row waits for the batches that are under way and no longer. A batch is no larger than what takes about
`BATCH_SECONDS` on this machine, and computes at most `_MAX_PROBABILITIES` numbers of each standard output.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from service.predict.engine.metrics import ModelMetrics
from service.predict.engine.profile import MODEL_OUTPUTS, Outputs, completed, selected
from service.predict.engine.session import OpenModel
from service.registry.errors import InvalidRequest

#: About how long a batch may take: a row that arrives while one runs, and another is next, waits for these two.
BATCH_SECONDS = 0.025
#: Rows times classes of a batch: 4 MiB of float32, and of 8,000 classes 131 rows.
_MAX_PROBABILITIES = 1 << 20


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request whose rows are queued, and its outputs as far as batches have computed them.

    Attributes:
        inputs: (rows, *row) by name.
        outputs: names of the model's outputs that the request takes.
        key: the shapes of its rows; rows of one batch share it.
        length: the longest free dimension of a row.
        until: its deadline, on the clock of the event loop.
        taken: rows that were given to a batch; `done`: those that batches have returned.
        gathered: arrays of all rows, filled by the batches of a request that is run in parts, in any order.
    """

    inputs: Mapping[str, np.ndarray]
    rows: int
    outputs: tuple[str, ...]
    future: asyncio.Future[Outputs]
    observer: ModelMetrics | None
    span: object | None
    key: tuple[object, ...]
    since: float
    length: int = 1
    until: float = math.inf
    taken: int = 0
    done: int = 0
    gathered: Outputs = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.rows - self.taken

    def gather(self, start: int, part: Outputs) -> None:
        """Keep the outputs of consecutive rows; called in the thread of their batch."""
        for name, array in part.items():
            make = np.ones if name == "finite" else np.empty  # parts without it are finite
            # `setdefault` is atomic: two batches that end at once fill the same array.
            whole = self.gathered.setdefault(name, make((self.rows, *array.shape[1:]), array.dtype))
            if whole.shape[1:] != array.shape[1:]:
                raise ValueError(f"output {name}: rows of {whole.shape[1:]} and of {array.shape[1:]} in one request")
            whole[start : start + len(array)] = array


class Slice(NamedTuple):
    """Consecutive rows of a request, from `start` on, which begin at `at` in their batch; `whole` if they are all."""

    request: QueuedRequest
    start: int
    rows: int
    at: int
    whole: bool


class InferenceBatch:
    """Rows that are run together.

    Attributes:
        results: for each slice its outputs, or the error that it ended with.
    """

    __slots__ = ("_options", "_terminated", "ended", "model", "results", "rows", "slices", "started")

    def __init__(self, model: OpenModel, slices: list[Slice]) -> None:
        self.model = model
        self.slices = slices
        self.rows = slices[-1].at + slices[-1].rows
        self.started = self.ended = 0.0
        self.results: list[Outputs | Exception] = []
        self._options: ort.RunOptions | None = None
        self._terminated = False

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def until(self) -> float:
        """The latest deadline of its requests, on the clock of the event loop."""
        return max(piece.request.until for piece in self.slices)

    @property
    def awaited(self) -> bool:
        return any(not piece.request.future.done() for piece in self.slices)

    def make_terminable(self) -> InferenceBatch:
        """Let another thread `terminate` the run."""
        self._options = ort.RunOptions()
        return self

    def terminate(self) -> None:
        """End the run before its next node: a node that is under way is not interrupted."""
        self._terminated = True
        if self._options is not None:
            self._options.terminate = True

    def run(self) -> None:
        self.started = time.perf_counter()
        outputs = self.slices[0].request.outputs
        for piece in self.slices:
            if piece.request.outputs != outputs:
                outputs = (*outputs, *piece.request.outputs)
        # Logits always: they tell whether a row overflows, and the confidence without the calibrator.
        outputs = tuple(dict.fromkeys((*MODEL_OUTPUTS, *outputs)))
        try:
            self.results = self._results(self.slices, outputs)
            self.ended = time.perf_counter()
            self.model.measured(self.rows, self.seconds, self.slices[0].request.length)
        except InvalidRequest as error:  # of some of the rows: requests with other rows are answered
            self.results = self._halves(self.slices, outputs, error)
        except Exception as error:
            self.results = [error] * len(self.slices)
        self.ended = time.perf_counter()

    def _halves(self, slices: list[Slice], outputs: tuple[str, ...], refused: Exception) -> list[Outputs | Exception]:
        if len(slices) == 1 or self._terminated:
            return [refused] * len(slices)
        results: list[Outputs | Exception] = []
        half = len(slices) // 2
        for some in (slices[:half], slices[half:]):
            try:
                results += self._results(some, outputs)
            except InvalidRequest as error:
                results += self._halves(some, outputs, error)
            except Exception as error:
                results += [error] * len(some)
        return results

    def _results(self, slices: list[Slice], outputs: tuple[str, ...]) -> list[Outputs | Exception]:
        all_outputs = completed(self.model.run(_inputs(slices), outputs, self._options))
        begin = slices[0].at
        results: list[Outputs | Exception] = []
        for piece in slices:
            at = piece.at - begin
            rows = None if len(slices) == 1 else slice(at, at + piece.rows)
            part = selected(all_outputs, piece.request.outputs, rows)
            if not piece.whole:
                piece.request.gather(piece.start, part)
            results.append(part)
        return results

    def settle(self) -> None:
        """Set the results of the requests that are complete; called on the event loop."""
        for piece, result in zip(self.slices, self.results, strict=True):
            request = piece.request
            if request.future.done():
                continue
            if isinstance(result, Exception):
                request.future.set_exception(result)
            elif piece.whole:
                request.future.set_result(result)
            else:
                request.done += piece.rows
                if request.done == request.rows:
                    request.future.set_result(request.gathered)
        self._observe()

    def fail(self, reason: Exception) -> None:
        for piece in self.slices:
            if not piece.request.future.done():
                piece.request.future.set_exception(reason)

    def _observe(self) -> None:
        shares: dict[ModelMetrics, list[tuple[Slice, Outputs | Exception]]] = {}
        for piece, result in zip(self.slices, self.results, strict=True):
            if piece.request.observer is not None:
                shares.setdefault(piece.request.observer, []).append((piece, result))
        for observer, share in shares.items():
            rows = sum([piece.rows for piece, _ in share])
            waited = [self.started - piece.request.since for piece, _ in share if piece.start == 0]
            observer.batch(rows, len(waited), sum(waited), self.seconds * rows / self.rows)
            confidences = [result["confidence"] for _, result in share if not isinstance(result, Exception)]
            if confidences:
                observer.confidences(confidences[0] if len(confidences) == 1 else np.concatenate(confidences))


def _inputs(slices: list[Slice]) -> Mapping[str, np.ndarray]:
    first = slices[0]
    if len(slices) > 1:
        return {
            name: np.concatenate([_rows(piece, piece.request.inputs[name]) for piece in slices])
            for name in first.request.inputs
        }
    return {name: _rows(first, array) for name, array in first.request.inputs.items()}


def _rows(piece: Slice, array: np.ndarray) -> np.ndarray:
    return array if piece.whole else array[piece.start : piece.start + piece.rows]


class ModelQueue:
    """The requests that wait for one model.

    Attributes:
        digest: of the model's file.
        rows: how many rows wait.
        spent: seconds of its batches; of several models the one that has had least is next.
        long_batches: batches under way that take long.
        listed: whether the scheduler has it among the queues with waiting rows.
    """

    def __init__(self, model: OpenModel, *, max_batch_rows: int, digest: str = "", most_bytes: int = 2**62) -> None:
        self.model = model
        self.digest = digest
        self.rows = 0
        self.spent = 0.0
        self.long_batches = 0
        self.listed = False
        self._max_rows = max(1, min(max_batch_rows, _MAX_PROBABILITIES // max(1, model.classes)))
        self._most_bytes = most_bytes
        self._most_short_rows = self._most_rows(1) if model.limits.length == 1 else 0  # the usual case, kept at hand
        # One queue for each shape of row: rows of different lengths cannot be one batch.
        self._queues: OrderedDict[tuple[object, ...], deque[QueuedRequest]] = OrderedDict()

    def add(self, request: QueuedRequest) -> None:
        queue = self._queues.get(request.key)
        if queue is None:
            queue = self._queues[request.key] = deque()
        queue.append(request)
        self.rows += request.rows

    def check(self, request: QueuedRequest) -> None:
        """Raises InvalidRequest `inputs_too_long` for rows much longer than any that inspection has tried."""
        if self._most_rows(request.length) < 1:
            longest = self.model.limits.longest()
            message = f"the rows are {request.length} long; this model was tried on rows that allow {longest} at most"
            raise InvalidRequest("inputs_too_long", message, field="inputs")

    @property
    def capacity(self) -> int:
        length = self._next_length()
        if length == 1:
            seconds, most = self.model.per_row, self._most_short_rows or self._most_rows(1)
        else:
            seconds, most = self.model.per_row * self.model.limits.weight(length), self._most_rows(length)
        return max(1, min(most, int(BATCH_SECONDS / seconds) if seconds > 0 else most))

    def _most_rows(self, length: int) -> int:
        return min(self._max_rows, self.model.limits.most_rows(length, most_bytes=self._most_bytes))

    def _next_length(self) -> int:
        for queue in self._queues.values():
            return queue[0].length
        return 1

    @property
    def full(self) -> bool:
        """True where the next batch would be no larger if it waited."""
        return self.rows >= self.capacity

    def next_cost(self) -> float:
        return self.model.cost(min(self.rows, self.capacity), self._next_length())

    def quick(self, seconds: float) -> bool:
        """True where the next batch surely takes no more than these seconds."""
        return self.model.quick(min(self.rows, self.capacity), self._next_length(), seconds)

    def take(self) -> InferenceBatch | None:
        """The next batch; None where no request is open."""
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            slices = self._slices(queue)
            del self._queues[key]
            if queue:
                self._queues[key] = queue  # to the back: other shapes have their turn
            if slices:
                return InferenceBatch(self.model, slices)
        return None

    def _slices(self, queue: deque[QueuedRequest]) -> list[Slice]:
        """Requests no larger than an equal share of the batch are taken whole; larger ones fill the rest in turn.

        Were the rest divided equally, every large request would be answered at the end of the last of them.
        """
        chosen, large, spare = self._sorted_out(queue)
        passed_over = []
        for request in large:
            count = min(spare, request.left)
            spare -= count
            if count > 0:
                chosen.append((request, count))
            else:
                passed_over.append(request)
        queue.extendleft(reversed(passed_over))  # they are next
        slices, at = [], 0
        for request, count in chosen:
            slices.append(Slice(request, request.taken, count, at, count == request.rows))
            at += count
            request.taken += count
            if request.taken < request.rows:
                queue.append(request)
        self.rows -= at
        return slices

    def _sorted_out(
        self, queue: deque[QueuedRequest]
    ) -> tuple[list[tuple[QueuedRequest, int]], list[QueuedRequest], int]:
        """Take from the queue the requests that fit whole, with their rows; larger ones; and what is free for these."""
        room = self.capacity
        share = max(1, room // len(queue))
        whole, large = [], []
        spare = 0
        for _ in range(len(queue)):
            if room == 0:
                break
            request = queue.popleft()
            if request.future.done():  # its client has gone, or its deadline has passed
                self.rows -= request.left
                continue
            left = request.left
            part = min(share, left)
            room -= part
            if part == left:
                whole.append((request, left))
            else:
                large.append(request)
                spare += part
        return whole, large, spare + room
