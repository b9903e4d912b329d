"""Runs stored models for many clients at once: open sessions up to a limit of bytes, and one line of batches.

It lives on an event loop and knows no HTTP. What surely takes less time than handing it to a thread is run at once,
where it is; everything else in threads, as many at a time as there are cores to spare. A batch that takes long gives
its place to others and goes on at a low priority; one that nobody waits for any more is ended.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path

import numpy as np

from service.inference.batching import BatchObserver, InferenceBatch, QueuedRequest
from service.inference.executor import Executor
from service.inference.model_queue import ModelQueue
from service.inference.quarantine import Quarantine
from service.inference.run_limits import UNKNOWN, RunLimits
from service.inference.session import OpenModel
from service.inference.standard_outputs import Outputs
from service.registry.artifacts import ArtifactStore
from service.registry.errors import Overloaded, RegistryError, Unavailable

_LOG = logging.getLogger(__name__)
#: What a batch may take on the event loop: about what handing it to a thread and back costs on a busy machine.
_AT_ONCE_SECONDS = 0.0005
#: How long batches are run on the event loop before it looks at its sockets again.
_ON_LOOP_SECONDS = 0.002
#: Processor time of a batch on the event loop that was taken for a quick one, beyond which it is not any more.
_MUCH_TOO_LONG_SECONDS = 0.02
_LEAST_RETRY_S = 1


class Scheduler:
    """A file is named by its digest and never changes, so an open session is never stale.

    Args:
        cache_bytes: total size of the files kept open; the least recently used is closed first.
        threads: of ONNX Runtime, within one batch.
        runs: batches at once.
        max_batch_rows: rows of one batch at most; `max_queued_rows`: rows that may wait for one model.
        max_batch_bytes: what the tensors of one batch may take, as far as inspection has computed it.
        suspensions: files that are not opened for a while.
        on_batch: told of every batch that was run.
        on_stuck: told the file of a run that does not end, a second after its time was up.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        *,
        cache_bytes: int,
        threads: int = 1,
        runs: int = 1,
        max_batch_rows: int = 256,
        max_queued_rows: int = 20_000,
        max_batch_bytes: int = 2**62,
        suspensions: Quarantine | None = None,
        on_batch: Callable[[InferenceBatch], None] | None = None,
        on_stuck: Callable[[str], None] | None = None,
    ) -> None:
        self._artifacts = artifacts
        self._cache_bytes = cache_bytes
        self._threads = threads
        self._max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        self._max_batch_bytes = max_batch_bytes
        self._suspensions = suspensions or Quarantine()
        self._on_batch = on_batch
        self._lines: OrderedDict[str, ModelQueue] = OrderedDict()
        self._opening: dict[str, asyncio.Task[ModelQueue]] = {}
        self._ready: list[ModelQueue] = []
        self._opening_bytes = 0
        self._spent = 0.0  # of the line whose turn was last: who comes anew starts there
        self._pumping = False
        self._places = Executor(runs, on_free=self._worked, on_stuck=on_stuck)
        # Of their own: a large file that is being opened must not keep batches waiting.
        self._openers = ThreadPoolExecutor(2, thread_name_prefix="opening")

    @property
    def open_sessions(self) -> int:
        """Models that are kept open."""
        return len(self._lines)

    @property
    def open_bytes(self) -> int:
        """The size of their files; like the other two it may be asked for in any thread."""
        return sum(line.model.size for line in list(self._lines.values()))

    @property
    def queued_rows(self) -> int:
        """Rows that wait, for any model."""
        return sum(line.rows for line in list(self._lines.values()))

    def opened(self, digest: str) -> ModelQueue | None:
        """The line of an open model, now its most recently used; None if it has to be opened first."""
        line = self._lines.get(digest)
        if line is not None:
            self._lines.move_to_end(digest)
        return line

    async def open(self, digest: str, limits: RunLimits = UNKNOWN) -> ModelQueue:
        """Open and warm up the file, once for all who ask; raises NotFound or Unavailable if it cannot be had.

        `limits` are of its record's profile.
        """
        line = self.opened(digest)
        if line is not None:
            return line
        opening = self._opening.get(digest)
        if opening is None:
            opening = self._opening[digest] = asyncio.ensure_future(self._open(digest, limits))
            opening.add_done_callback(lambda task: (self._opening.pop(digest), task.cancelled() or task.exception()))
        return await asyncio.shield(opening)  # one who leaves must not take it from the others

    def close_model(self, digest: str) -> None:
        """Forget the open file; what waits for it is still answered."""
        self._lines.pop(digest, None)

    def submit(
        self,
        line: ModelQueue,
        inputs: Mapping[str, np.ndarray],
        *,
        wants: tuple[str, ...] = (),
        watch: BatchObserver | None = None,
        span: object | None = None,
        until: float = math.inf,
    ) -> asyncio.Future[Outputs]:
        """Queue rows and return what will hold their outputs; whoever sets or cancels it gives the rows up.

        `wants` names outputs beyond logits, probabilities and confidence; `until`, on the clock of the event loop, is
        when nobody waits for them any more.
        Raises Overloaded if too many rows wait already, InvalidRequest if they are longer than the model may run.
        """
        rows = len(next(iter(inputs.values())))
        if line.rows and line.rows + rows > self._max_queued_rows:
            raise self._overloaded(line)
        loop = asyncio.get_running_loop()
        key = tuple([array.shape[1:] for array in inputs.values()])
        length = line.model.length(inputs)
        request = QueuedRequest(
            inputs, rows, wants, loop.create_future(), watch, span, key, time.perf_counter(), length, until
        )
        if length > 1:
            line.check(request)
        line.add(request)
        if not line.listed:
            line.listed = True
            line.spent = max(line.spent, self._spent)
            self._ready.append(line)
        self._pump_soon(loop)
        return request.future

    def shut_down(self) -> None:
        """No more batches are begun."""
        self._places.shut_down()
        self._openers.shutdown(wait=False, cancel_futures=True)

    async def _open(self, digest: str, limits: RunLimits) -> ModelQueue:
        loop = asyncio.get_running_loop()
        self._suspensions.check(digest)
        holding = self._artifacts.held(digest)
        path = await loop.run_in_executor(self._openers, holding.__enter__)
        size = 0
        try:
            size = (await loop.run_in_executor(self._openers, path.stat)).st_size
            self._opening_bytes += size
            # Before it is opened: memory must not rise above the limit even for a moment.
            self._make_room()
            model = await loop.run_in_executor(self._openers, _warm, path, self._threads, limits)
        except RegistryError:
            raise
        except Exception as error:
            _LOG.exception("the stored file %s cannot be opened", digest)
            raise Unavailable("model_cannot_be_opened", "the model's stored file cannot be opened now") from error
        finally:
            self._opening_bytes -= size
            await loop.run_in_executor(self._openers, holding.__exit__, None, None, None)
        line = self._lines[digest] = ModelQueue(
            model, max_batch_rows=self._max_batch_rows, digest=digest, most_bytes=self._max_batch_bytes
        )
        return line

    def _make_room(self) -> None:
        while self._lines and self.open_bytes + self._opening_bytes > self._cache_bytes:
            self._lines.popitem(last=False)

    def _overloaded(self, line: ModelQueue) -> Overloaded:
        seconds = max(_LEAST_RETRY_S, round(line.model.cost(line.rows)))
        message = f"{line.rows} rows wait for this model already; at most {self._max_queued_rows} may"
        return Overloaded("overloaded", f"{message}; try again in {seconds} s", retry_after=seconds)

    def _pump_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._pumping:
            self._pumping = True
            # Two turns of the loop from now: who is being read in this one is parsed in the next, and comes along.
            # (With 16 clients batches are twice as large as after one turn; a lone row waits for some 10 µs.)
            loop.call_soon(loop.call_soon, self._pump, loop)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin what can be begun: quick batches here, one for each line, others while threads are free.

        The line that has had the least time is the first, and those that have had much more have no turn beside it.
        """
        self._pumping = False
        until = time.perf_counter() + _ON_LOOP_SECONDS
        if len(self._ready) > 1:
            self._ready.sort(key=_spent)
        passed_over: list[ModelQueue] = []
        begun: list[ModelQueue] = []
        most_spent = math.inf
        while self._ready and time.perf_counter() <= until:
            line = self._ready.pop(0)
            quick = line.quick(_AT_ONCE_SECONDS)
            room = quick or self._places.room_for(line, others=bool(self._ready or passed_over or begun))
            if not room or line.spent > most_spent:
                passed_over.append(line)
                continue
            most_spent = min(most_spent, line.spent + _ON_LOOP_SECONDS)
            batch = line.take()
            if line.rows > 0:
                begun.append(line)
            else:
                line.listed = False
            if batch is None:
                continue
            self._spent = max(self._spent, line.spent)
            if quick:
                self._run_here(line, batch)
            else:
                self._places.run(loop, line, batch)
        self._ready = [*passed_over, *self._ready, *begun]
        others = len(self._ready) > 1
        if any(line.quick(_AT_ONCE_SECONDS) or self._places.room_for(line, others=others) for line in self._ready):
            self._pump_soon(loop)

    def _run_here(self, line: ModelQueue, batch: InferenceBatch) -> None:
        processor = time.thread_time()
        batch.run()
        line.spent += batch.seconds
        # Not the clock: this thread may have waited for a core meanwhile.
        if batch.seconds > _ON_LOOP_SECONDS and time.thread_time() - processor > _MUCH_TOO_LONG_SECONDS:
            line.model.mistrust()
        self._settle(batch)

    def _worked(self, loop: asyncio.AbstractEventLoop, batch: InferenceBatch | None) -> None:
        """A batch has come back from its thread, or has given its place to others."""
        if batch is not None:
            self._settle(batch)
        if self._ready:
            self._pump_soon(loop)

    def _settle(self, batch: InferenceBatch) -> None:
        try:
            batch.settle()
            if self._on_batch is not None:
                self._on_batch(batch)
        except Exception as error:  # no memory to join a large answer, say: the next batches must be begun all the same
            _LOG.exception("a batch could not be handed out")
            batch.give_up(error)


_spent: Callable[[ModelQueue], float] = attrgetter("spent")


def _warm(path: Path, threads: int, limits: RunLimits) -> OpenModel:
    model = OpenModel(path, threads=threads, limits=limits)
    model.warm_up()
    return model
