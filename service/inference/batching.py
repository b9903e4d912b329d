"""Rows of several requests that are run together: who waits, what is cut off for whom, who is told.

It knows one open model, and neither queues nor threads nor HTTP.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnxruntime as ort

from service.inference.session import OpenModel
from service.inference.standard_outputs import Outputs, completed, joined
from service.registry.errors import InvalidRequest


class BatchObserver(Protocol):
    """Who wants to know what became of the rows of a request."""

    def batch(self, rows: int, requests: int, queue_seconds: float, compute_seconds: float) -> None:
        """So many rows were run; `queue_seconds` is summed over the `requests` whose first rows are among them."""

    def confidences(self, values: np.ndarray) -> None:
        """What came out."""


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request whose rows wait.

    Attributes:
        inputs: (rows, *row) by name.
        wants: outputs beyond the usual ones.
        key: what its rows must share with others of a batch: the shape of a row.
        length: the longest free dimension of a row.
        until: when nobody waits for it any more, on the clock of the event loop.
        taken: rows that were given to a batch; `done`: those that have come back.
    """

    inputs: Mapping[str, np.ndarray]
    rows: int
    wants: tuple[str, ...]
    future: asyncio.Future[Outputs]
    watch: BatchObserver | None
    span: object | None
    key: tuple[object, ...]
    since: float
    length: int = 1
    until: float = math.inf
    taken: int = 0
    done: int = 0
    parts: dict[int, Outputs] = field(default_factory=dict)  # by first row: batches may end in any order

    @property
    def left(self) -> int:
        """Rows that are in no batch yet."""
        return self.rows - self.taken


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start:stop` of a request, which stand in a batch from `at` on."""

    request: QueuedRequest
    start: int
    stop: int
    at: int


class InferenceBatch:
    """Rows that are run together."""

    __slots__ = ("_options", "_terminated", "ended", "model", "results", "rows", "slices", "started")

    def __init__(self, model: OpenModel, slices: list[Slice]) -> None:
        self.model = model
        self.slices = slices
        self.rows = slices[-1].at + slices[-1].stop - slices[-1].start
        self.started = self.ended = 0.0
        self.results: list[Outputs | Exception] = []
        self._options: ort.RunOptions | None = None
        self._terminated = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started

    @property
    def until(self) -> float:
        """When the last of its requests has been given up, on the clock of the event loop."""
        return max(piece.request.until for piece in self.slices)

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for it."""
        return any(not piece.request.future.done() for piece in self.slices)

    def can_be_ended(self) -> InferenceBatch:
        """Have it run so that another thread may `terminate` it."""
        self._options = ort.RunOptions()
        return self

    def terminate(self) -> None:
        """End its run before the next node: one that is under way is not interrupted."""
        self._terminated = True
        if self._options is not None:
            self._options.terminate = True

    def run(self) -> None:
        """Run it, here and now; every slice has its result afterwards, or why it has none."""
        self.started = time.perf_counter()
        wants = self.slices[0].request.wants
        for piece in self.slices:
            if piece.request.wants != wants:
                wants = tuple(dict.fromkeys((*wants, *piece.request.wants)))
        try:
            self.results = self._results(self.slices, wants)
            self.ended = time.perf_counter()
            self.model.measured(self.rows, self.seconds, self.slices[0].request.length)
        except InvalidRequest as error:  # somebody's rows; the others are not to suffer for it
            self.results = self._halves(self.slices, wants, error)
        except Exception as error:
            self.results = [error] * len(self.slices)
        self.ended = time.perf_counter()

    def _halves(self, slices: list[Slice], wants: tuple[str, ...], refused: Exception) -> list[Outputs | Exception]:
        """The results of slices that were refused together."""
        if len(slices) == 1 or self._terminated:
            return [refused] * len(slices)
        found: list[Outputs | Exception] = []
        half = len(slices) // 2
        for some in (slices[:half], slices[half:]):
            try:
                found += self._results(some, wants)
            except InvalidRequest as error:
                found += self._halves(some, wants, error)
            except Exception as error:
                found += [error] * len(some)
        return found

    def _results(self, slices: list[Slice], wants: tuple[str, ...]) -> list[Outputs | Exception]:
        outputs = self._outputs(slices, wants)
        if len(slices) == 1:
            return [outputs]
        starts = slices[0].at
        return [_cut(outputs, piece.at - starts, piece.stop - piece.start) for piece in slices]

    def _outputs(self, slices: list[Slice], wants: tuple[str, ...]) -> Outputs:
        first = slices[0]
        if len(slices) == 1:
            inputs = {name: array[first.start : first.stop] for name, array in first.request.inputs.items()}
        else:
            inputs = {
                name: np.concatenate([piece.request.inputs[name][piece.start : piece.stop] for piece in slices])
                for name in first.request.inputs
            }
        return completed(self.model.run(inputs, ("logits", "probabilities", "confidence", *wants), self._options))

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
                request.done += piece.stop - piece.start
                if request.done == request.rows:
                    request.future.set_result(joined([part for _, part in sorted(request.parts.items())]))
        self._tell()

    def give_up(self, reason: Exception) -> None:
        """Tell this to those who still wait for it."""
        for piece in self.slices:
            if not piece.request.future.done():
                piece.request.future.set_exception(reason)

    def _tell(self) -> None:
        """Tell each watch of its share."""
        shares: dict[BatchObserver, list[tuple[Slice, Outputs | Exception]]] = {}
        for piece, result in zip(self.slices, self.results, strict=True):
            if piece.request.watch is not None:
                shares.setdefault(piece.request.watch, []).append((piece, result))
        for watch, share in shares.items():
            rows = sum(piece.stop - piece.start for piece, _ in share)
            waited = [self.started - piece.request.since for piece, _ in share if piece.start == 0]
            watch.batch(rows, len(waited), sum(waited), self.seconds * rows / self.rows)
            found = [result["confidence"] for _, result in share if not isinstance(result, Exception)]
            if found:
                watch.confidences(found[0] if len(found) == 1 else np.concatenate(found))


def _cut(outputs: Outputs, start: int, rows: int) -> Outputs:
    return {name: array[start : start + rows] for name, array in outputs.items()}
