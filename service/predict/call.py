"""An inference call, the servicer context of gRPC: a request, what it holds, and the steps by which it is answered.

What the requests in flight hold is bounded together. Large bodies are read and written in threads: one that takes long
must not block the event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from opentelemetry.trace import Span

from service.http.access import AccessControl
from service.http.access_log import AccessLog
from service.ipc.run_marks import RunMarks
from service.predict.engine.batching import InferenceBatch, ModelQueue
from service.predict.engine.executor import MAX_GRACE_S
from service.predict.engine.metrics import ModelMetrics, ServingMetrics
from service.predict.engine.profile import Outputs
from service.predict.engine.scheduler import Files, Scheduler, SchedulerOptions
from service.predict.engine.session import prepare, spare_runs
from service.predict.formats.answers import RowSize
from service.predict.formats.json_inputs import too_many_bytes
from service.predict.messages import Request, Waits, inflated, too_late
from service.predict.repository import Lookup, ModelRepository
from service.predict.served_folder import ResolvedModel
from service.registry.errors import Overloaded, TooLarge
from service.registry.settings import ServingSettings
from service.served.keys import Keys
from service.tracing import Tracing

T = TypeVar("T")
_THREADS = 2
#: Larger work is done in threads: bytes of text to read, and rows or numbers to write.
SMALL_BYTES = 64 * 1024
_FEW_ROWS = 256
_FEW_NUMBERS = 32 * 1024


class FormatThreads:
    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="formats")
        self._free = asyncio.Semaphore(_THREADS)
        self._waiting = 0  # for a thread, or for its result

    async def run(self, until: float, function: Callable[..., T], *args: object) -> T:
        """Return `function(*args)`; raises DeadlineExceeded at `until` on the loop's clock, or Overloaded."""
        if self._waiting >= self._max_waiting:
            message = f"{self._waiting} bodies and answers wait to be read or written; try again in 1 s"
            raise Overloaded("overloaded", message, retry_after=1)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(until):
                # Not in the queue of the pool: it would keep the bodies of requests that are given up.
                await self._free.acquire()
                return await asyncio.wrap_future(self._submitted(function, *args))
        except TimeoutError:
            raise too_late() from None
        finally:
            self._waiting -= 1

    def shut_down(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submitted(self, function: Callable[..., T], *args: object) -> Future[T]:
        """The work in a thread, which is free again at its end even if no request waits for it any more."""
        loop = asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._free.release)

        work = self._pool.submit(function, *args)
        work.add_done_callback(ended)
        return work


class InflightMemory:
    """Counts the bytes that requests hold. It lives on the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, more: int, *, held: int) -> None:
        """Count more bytes of a request that holds some already; raises Overloaded beyond the limit.

        A request that is alone is never refused.
        """
        if self.held_bytes > held and self.held_bytes + more > self.max_bytes:
            message = f"other requests fill the {self.max_bytes} bytes there are for bodies and rows; try again in 1 s"
            raise Overloaded("overloaded", message, retry_after=1)
        self.held_bytes += more


def scheduler_of(
    settings: ServingSettings,
    files: Files,
    tracing: Tracing,
    *,
    on_stuck: Callable[[str], None] | None = None,
    longest_grace: float = MAX_GRACE_S,
    marks: RunMarks | None = None,
) -> Scheduler:
    """The scheduler that these settings describe, over served copies; its batches are traced."""

    def trace(batch: InferenceBatch) -> None:
        spans = [piece.request.span for piece in batch.slices if isinstance(piece.request.span, Span)]
        tracing.batch(spans, batch.started, batch.ended, rows=batch.rows)

    threads = settings.inference_threads
    options = SchedulerOptions(
        cache_bytes=settings.session_cache_bytes,
        threads=threads,
        runs=settings.inference_runs or spare_runs(processes=settings.resolved_api_processes, threads=threads),
        max_batch_rows=settings.max_batch_rows,
        max_queued_rows=settings.max_queued_rows,
        max_batch_bytes=settings.resolved_api_memory_bytes // 4,
    )
    return Scheduler(
        files,
        options,
        on_batch=trace if tracing.on else None,
        on_stuck=on_stuck,
        longest_grace=longest_grace,
        marks=marks,
    )


@dataclass(frozen=True)
class ServingServices:
    """Services that predictions need, and nothing else: no database, no stored files, no broker.

    Attributes:
        memory: bounds what the calls of a process hold together.
        threads: read and write large bodies.
        waits: ends what is awaited for too long.
    """

    settings: ServingSettings
    access: AccessControl
    keys: Keys
    metrics: ServingMetrics
    tracing: Tracing
    scheduler: Scheduler
    model_repository: ModelRepository
    access_log: AccessLog
    memory: InflightMemory
    threads: FormatThreads
    waits: Waits

    @classmethod
    def open(
        cls,
        settings: ServingSettings,
        scheduler: Scheduler,
        *,
        access: AccessControl,
        keys: Keys,
        look_up: Lookup,
        metrics: ServingMetrics,
        tracing: Tracing,
        access_log: AccessLog,
    ) -> ServingServices:
        """Make the repository of models over a scheduler, and count what it does."""
        metrics.load(lambda: len(scheduler.models), lambda: scheduler.models.bytes, lambda: scheduler.queued_rows)
        return cls(
            settings,
            access,
            keys,
            metrics,
            tracing,
            scheduler,
            model_repository=ModelRepository(look_up, scheduler),
            access_log=access_log,
            memory=InflightMemory(settings.max_inflight_bytes),
            threads=FormatThreads(settings.max_waiting_bodies),
            waits=Waits(),
        )

    def start(self) -> None:
        prepare(arena_bytes=self.settings.resolved_api_memory_bytes // 2)


class InferenceCall:
    """One request for predictions.

    Attributes:
        began_at: on the clock of `time.perf_counter`.
        arrived, until: the time of arrival and the deadline, on the clock of the event loop.
        resolved: the model behind the name, once it is found.
        held_bytes: of its body, its rows and its answer; answer_bytes: of these the answer, as far as it is known.
    """

    __slots__ = (
        *("_memory", "_services", "abstained", "answer_bytes", "arrived", "began_at", "held_bytes", "metrics", "model"),
        *("request", "resolved", "rows", "settings", "span", "until", "version"),
    )

    def __init__(
        self, services: ServingServices, request: Request, model: str, version: str | None, span: Span
    ) -> None:
        self._services = services
        self._memory = services.memory
        self.settings = services.settings
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
        """The whole body; raises TooLarge, Stalled, DeadlineExceeded, ClientDisconnect, Overloaded."""
        try:
            return await self.request.body(limit, self.until, self._received)
        except TooLarge as error:
            raise _named(error, limit, json) from None

    def _received(self, size: int) -> None:
        self.hold(self.held_bytes + size)

    async def decompressed(self, body: bytes, limit: int, *, json: bool) -> bytes:
        """The body without its content encoding, if it has one; raises TooLarge, InvalidRequest, Overloaded."""
        encoding = self.request.headers.get(b"content-encoding")
        if encoding is None:
            return body
        work = partial(inflated, body, encoding.decode("latin-1"), limit=limit)
        try:
            body = await self._services.threads.run(self.until, work)
        except TooLarge as error:
            raise _named(error, limit, json) from None
        self.hold(len(body))
        return body

    async def find(self) -> tuple[ResolvedModel, ModelQueue]:
        """The model that is asked for, open; raises what `ModelRepository.find` does, or DeadlineExceeded."""
        repository = self._services.model_repository
        opened = repository.known(self.model, self.version)
        if opened is None:
            try:
                async with asyncio.timeout_at(self.until):
                    opened = await repository.find(self.model, self.version)
            except TimeoutError:
                raise too_late() from None
        self.resolved = resolved = opened[0]
        self.metrics = self._services.metrics.of(resolved.called, resolved.version, resolved.model_id)
        return opened

    async def read(self, body: bytes, function: Callable[..., T], *args: object, small: int = SMALL_BYTES) -> T:
        """`function(body, *args)`, in a thread where the body is not small."""
        if len(body) <= small:
            return function(body, *args)
        return await self._services.threads.run(self.until, function, body, *args)

    async def run(self, queue: ModelQueue, inputs: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Outputs:
        """Named outputs for the rows; raises Overloaded, DeadlineExceeded, InvalidRequest, ClientDisconnect."""
        self.rows = len(next(iter(inputs.values())))
        # A small file may be a large image.
        self.hold(sum([array.nbytes for array in inputs.values()]) + self.answer_bytes)
        outputs = self._services.scheduler.submit(
            queue, inputs, outputs=names, observer=self.metrics, span=self.span, until=self.until
        )
        return await self._services.waits.outputs(outputs, self.request.receive, until=self.until)

    async def write(self, outputs: Outputs, function: Callable[..., T], *args: object) -> T:
        """`function(*args)`, in a thread where these outputs are more than a few rows or numbers."""
        if self.rows <= _FEW_ROWS and sum([array.size for array in outputs.values()]) <= _FEW_NUMBERS:
            return function(*args)
        return await self._services.threads.run(self.until, function, *args)

    def hold(self, size: int) -> None:
        """Hold so many bytes, if more than before; raises Overloaded where all requests hold too many."""
        more = size - self.held_bytes
        if more > 0:
            self._memory.take(more, held=self.held_bytes)
            self.held_bytes = size

    def expect_answer(self, rows: int, size: RowSize) -> None:
        """Hold an answer of this size per row before it is made; raises TooLarge, Overloaded."""
        size.check(rows, self.settings.max_answer_bytes)
        self.answer_bytes = rows * size.total + size.once
        self.hold(self.held_bytes + self.answer_bytes)

    def hold_answer(self, size: int) -> None:
        """Hold an answer of this size in place of the expected one, until it is sent; never refused."""
        more, self.answer_bytes = size - self.answer_bytes, size
        self.held_bytes += more
        self._memory.held_bytes += more

    def release(self) -> None:
        self._memory.held_bytes -= self.held_bytes
        self.held_bytes = 0


def _named(error: TooLarge, limit: int, is_json: bool) -> TooLarge:
    return too_many_bytes(limit) if is_json and error.code == "too_large" else error
