"""An inference call, the servicer context of gRPC: a request, what it holds, and the steps by which it is answered."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from opentelemetry.trace import Span

from service.inference.answer_size import RowSize
from service.inference.json_limits import too_many_bytes
from service.inference.metrics import ModelMetrics
from service.inference.model_queue import ModelQueue
from service.inference.oip.inflation import inflated
from service.inference.standard_outputs import Outputs
from service.registry.errors import TooLarge
from service.resolved_model import ResolvedModel
from service.serving.deadlines import Waits, too_late
from service.serving.format_threads import FormatThreads
from service.serving.inflight_memory import InflightMemory
from service.serving.messages import Request
from service.serving.services import ServingServices

T = TypeVar("T")

#: Larger work is done in threads: bytes of text to read, and rows or numbers to write.
SMALL_BYTES = 64 * 1024
_FEW_ROWS = 256
_FEW_NUMBERS = 32 * 1024


class Shared(NamedTuple):
    """What the calls of a process share.

    Attributes:
        memory: bounds what they hold together.
        threads: read and write large bodies.
        waits: ends what is awaited for too long.
    """

    services: ServingServices
    memory: InflightMemory
    threads: FormatThreads
    waits: Waits


class InferenceCall:
    """One request for predictions.

    Attributes:
        began_at: on the clock of `time.perf_counter`.
        arrived, until: the time of arrival and the deadline, on the clock of the event loop.
        resolved: the model behind the name, once it is found.
        held_bytes: of its body, its rows and its answer; answer_bytes: of these the answer, as far as it is known.
    """

    __slots__ = (
        *("_memory", "_shared", "abstained", "answer_bytes", "arrived", "began_at", "held_bytes", "metrics", "model"),
        *("request", "resolved", "rows", "settings", "span", "until", "version"),
    )

    def __init__(self, shared: Shared, request: Request, model: str, version: str | None, span: Span) -> None:
        self._shared = shared
        self._memory = shared.memory
        self.settings = shared.services.settings
        self.request = request
        self.model = model
        self.version = version
        self.span = span
        self.began_at = time.perf_counter()
        self.arrived = 0.0
        self.until = math.inf
        self.resolved: ResolvedModel | None = None
        self.metrics: ModelMetrics | None = None
        self.rows = self.abstained = self.held_bytes = self.answer_bytes = 0

    async def body(self, limit: int, *, json: bool) -> bytes:
        """The whole body; raises TooLarge, Stalled, DeadlineExceeded, ClientDisconnect, and Overloaded as `hold`."""
        try:
            return await self.request.body(limit, self.until, self._received)
        except TooLarge as error:
            raise _named(error, limit, json) from None

    def _received(self, size: int) -> None:
        self.hold(self.held_bytes + size)

    async def decompressed(self, body: bytes, limit: int, *, json: bool) -> bytes:
        """The body without its content encoding, if it has one; raises what `inflated` does, and as `hold`."""
        encoding = self.request.headers.get(b"content-encoding")
        if encoding is None:
            return body
        work = partial(inflated, body, encoding.decode("latin-1"), limit=limit)
        try:
            body = await self._shared.threads.run(self.until, work)
        except TooLarge as error:
            raise _named(error, limit, json) from None
        self.hold(len(body))
        return body

    async def find(self) -> tuple[ResolvedModel, ModelQueue]:
        """The model that is asked for, open; raises what `ModelRepository.find` does, or DeadlineExceeded."""
        repository = self._shared.services.model_repository
        found = repository.known(self.model, self.version)
        if found is None:
            try:
                async with asyncio.timeout_at(self.until):
                    found = await repository.find(self.model, self.version)
            except TimeoutError:
                raise too_late() from None
        self.resolved = resolved = found[0]
        self.metrics = self._shared.services.metrics.of(resolved.called, resolved.version, resolved.model_id)
        return found

    async def read(self, body: bytes, function: Callable[..., T], *args: object, small: int = SMALL_BYTES) -> T:
        """`function(body, *args)`, in a thread where the body is not small."""
        if len(body) <= small:
            return function(body, *args)
        return await self._shared.threads.run(self.until, function, body, *args)

    async def run(self, queue: ModelQueue, inputs: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Outputs:
        """These outputs for the rows; raises Overloaded, DeadlineExceeded, InvalidRequest, ClientDisconnect."""
        self.rows = len(next(iter(inputs.values())))
        # A small file may be a large image.
        self.hold(sum([array.nbytes for array in inputs.values()]) + self.answer_bytes)
        outputs = self._shared.services.scheduler.submit(
            queue, inputs, outputs=names, observer=self.metrics, span=self.span, until=self.until
        )
        return await self._shared.waits.outputs(outputs, self.request.receive, until=self.until)

    async def write(self, outputs: Outputs, function: Callable[..., T], *args: object) -> T:
        """`function(*args)`, in a thread where these outputs are more than a few rows or numbers."""
        if self.rows <= _FEW_ROWS and sum([array.size for array in outputs.values()]) <= _FEW_NUMBERS:
            return function(*args)
        return await self._shared.threads.run(self.until, function, *args)

    def hold(self, size: int) -> None:
        """Hold so many bytes, if more than before; raises Overloaded where all requests hold too many."""
        more = size - self.held_bytes
        if more > 0:
            self._memory.take(more, held=self.held_bytes)
            self.held_bytes = size

    def expect_answer(self, rows: int, size: RowSize) -> None:
        """Hold an answer of this size per row before it is made; raises TooLarge, and Overloaded as `hold`."""
        size.check(rows, self.settings.max_answer_bytes)
        self.answer_bytes = rows * size.total + size.once
        self.hold(self.held_bytes + self.answer_bytes)

    def hold_answer(self, size: int) -> None:
        """Hold an answer of this size in place of the expected one, until it is sent; never refused."""
        more, self.answer_bytes = size - self.answer_bytes, size
        self.held_bytes += more
        self._memory.release(-more)

    def release(self) -> None:
        """Hold nothing any more: the request has ended."""
        self._memory.release(self.held_bytes)
        self.held_bytes = 0


def _named(error: TooLarge, limit: int, is_json: bool) -> TooLarge:
    """The error, which names the formats with a higher limit where JSON is too large."""
    return too_many_bytes(limit) if is_json and error.code == "too_large" else error
