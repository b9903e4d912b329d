"""The scheduler of batches over open models: each model has a queue, and of several the next batch is chosen.

It lives on an event loop. A batch that surely takes less time than handing it to a thread runs on the loop; all others
run in threads, as many at a time as there are cores to spare. A batch that takes long frees its slot for others and
goes on at a low priority; one whose requests are all closed is ended. Models are kept open up to a limit of bytes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from service.ipc.run_marks import RunMark, RunMarks
from service.predict.engine.batching import InferenceBatch, ModelQueue, QueuedRequest
from service.predict.engine.executor import MAX_GRACE_S, Executor
from service.predict.engine.metrics import ModelMetrics
from service.predict.engine.profile import MODEL_OUTPUTS, UNKNOWN, Outputs, RunLimits
from service.predict.engine.session import OpenModel
from service.registry.errors import Overloaded, RegistryError, Unavailable

_LOG = logging.getLogger(__name__)
#: The time of a batch on the event loop: about that of handing it to a thread and back on a busy machine.
_AT_ONCE_SECONDS = 0.0005
#: How long batches run on the event loop before it looks at its sockets again.
_ON_LOOP_SECONDS = 0.002
#: Processor time of a batch on the event loop beyond which its model runs in threads for a while.
_MUCH_TOO_LONG_SECONDS = 0.02
_MIN_RETRY_S = 1
_spent: Callable[[ModelQueue], float] = attrgetter("spent")


#: Gives the path of a file by its digest, which stays there within the block; raises NotFound, Unavailable.
Files = Callable[[str], AbstractContextManager[Path]]


@dataclass(frozen=True)
class SchedulerOptions:
    """Limits of a scheduler.

    Attributes:
        cache_bytes: total size of the files kept open; the least recently used is closed first.
        threads: of ONNX Runtime, within one batch.
        runs: batches at once.
        max_batch_rows: rows of one batch at most.
        max_queued_rows: rows that may wait for one model.
        max_batch_bytes: of the tensors of one batch, as far as inspection has computed them.
    """

    cache_bytes: int
    threads: int = 1
    runs: int = 1
    max_batch_rows: int = 256
    max_queued_rows: int = 20_000
    max_batch_bytes: int = 2**62


class OpenModels:
    """The queues of open models by the digests of their files; on the event loop."""

    def __init__(self, files: Files, options: SchedulerOptions, marks: RunMarks) -> None:
        self._files = files
        self._options = options
        self._marks = marks
        self._queues: OrderedDict[str, ModelQueue] = OrderedDict()
        self._opening: dict[str, asyncio.Task[ModelQueue]] = {}
        self._opening_bytes = 0
        # Separate threads: opening a large file must not delay batches.
        self._openers = ThreadPoolExecutor(2, thread_name_prefix="opening")

    def __len__(self) -> int:
        return len(self._queues)

    @property
    def bytes(self) -> int:
        """The size of their files; readable in any thread, like `queues`."""
        return sum(queue.model.size for queue in self.queues())

    def queues(self) -> list[ModelQueue]:
        return list(self._queues.values())

    def opened(self, digest: str) -> ModelQueue | None:
        """The queue of an open model, which becomes the most recently used; None for one that is not open."""
        queue = self._queues.get(digest)
        if queue is not None:
            self._queues.move_to_end(digest)
        return queue

    async def open(self, digest: str, limits: RunLimits = UNKNOWN) -> ModelQueue:
        """Open and warm up the file, once for all callers; raises NotFound or Unavailable where that fails.

        `limits` are those of its record's profile.
        """
        queue = self.opened(digest)
        if queue is not None:
            return queue
        opening = self._opening.get(digest)
        if opening is None:
            opening = self._opening[digest] = asyncio.ensure_future(self._open(digest, limits))
            opening.add_done_callback(lambda task: (self._opening.pop(digest), task.cancelled() or task.exception()))
        return await asyncio.shield(opening)  # a caller that is cancelled must not cancel it for the others

    def close(self, digest: str) -> None:
        self._queues.pop(digest, None)

    def shut_down(self) -> None:
        self._openers.shutdown(wait=False, cancel_futures=True)

    async def _open(self, digest: str, limits: RunLimits) -> ModelQueue:
        loop = asyncio.get_running_loop()
        holding = self._files(digest)
        path = await loop.run_in_executor(self._openers, holding.__enter__)
        size = 0
        try:
            size = (await loop.run_in_executor(self._openers, path.stat)).st_size
            self._opening_bytes += size
            # Before it is opened: memory must not rise above the limit even for a moment.
            while self._queues and self.bytes + self._opening_bytes > self._options.cache_bytes:
                self._queues.popitem(last=False)
            mark = self._marks.of(digest)
            model = await loop.run_in_executor(self._openers, _warm, path, self._options.threads, limits, mark)
        except RegistryError:
            raise
        except Exception as error:
            _LOG.exception("the stored file %s cannot be opened", digest)
            raise Unavailable("model_cannot_be_opened", "the model's stored file cannot be opened now") from error
        finally:
            self._opening_bytes -= size
            await loop.run_in_executor(self._openers, holding.__exit__, None, None, None)
        queue = self._queues[digest] = ModelQueue(
            model,
            digest=digest,
            max_batch_rows=self._options.max_batch_rows,
            most_bytes=self._options.max_batch_bytes,
        )
        return queue


def _warm(path: Path, threads: int, limits: RunLimits, mark: RunMark) -> OpenModel:
    model = OpenModel(path, threads=threads, limits=limits, mark=mark)
    model.warm_up()
    return model


class Scheduler:
    """Runs rows of many requests through open models; a file never changes under its digest, so none is stale.

    Args:
        on_batch: called with every batch that has run.
        on_stuck: called with the file of a run that does not end, a second after its deadline, or `longest_grace` of
            them where others take the cores.
        marks: of what is opened and run.

    Attributes:
        models: those that are open.
    """

    def __init__(
        self,
        files: Files,
        options: SchedulerOptions,
        *,
        on_batch: Callable[[InferenceBatch], None] | None = None,
        on_stuck: Callable[[str], None] | None = None,
        longest_grace: float = MAX_GRACE_S,
        marks: RunMarks | None = None,
    ) -> None:
        self.models = OpenModels(files, options, marks or RunMarks())
        self._max_queued_rows = options.max_queued_rows
        self._on_batch = on_batch
        self._ready: list[ModelQueue] = []
        self._spent = 0.0  # of the queue whose turn was last: a new one starts there
        self._scheduled = False
        self._executor = Executor(options.runs, on_free=self._freed, on_stuck=on_stuck, longest_grace=longest_grace)

    @property
    def queued_rows(self) -> int:
        """Rows that wait, for all models together; readable in any thread."""
        return sum(queue.rows for queue in self.models.queues())

    def submit(
        self,
        queue: ModelQueue,
        inputs: Mapping[str, np.ndarray],
        *,
        outputs: tuple[str, ...] = MODEL_OUTPUTS,
        observer: ModelMetrics | None = None,
        span: object | None = None,
        until: float = math.inf,
    ) -> asyncio.Future[Outputs]:
        """Queue rows and return the future of their outputs; to set or cancel it gives the rows up.

        `outputs` names what is returned beside index, confidence and uncalibrated_confidence; `until` is the deadline
        on the clock of the event loop.
        Raises Overloaded if too many rows wait already, InvalidRequest if they are longer than the model may run.
        """
        rows = len(next(iter(inputs.values())))
        if queue.rows and queue.rows + rows > self._max_queued_rows:
            seconds = max(_MIN_RETRY_S, round(queue.model.cost(queue.rows)))
            message = f"{queue.rows} rows wait for this model already; at most {self._max_queued_rows} may"
            raise Overloaded("overloaded", f"{message}; try again in {seconds} s", retry_after=seconds)
        loop = asyncio.get_running_loop()
        key = tuple([array.shape[1:] for array in inputs.values()])
        length = queue.model.length(inputs)
        request = QueuedRequest(
            inputs, rows, outputs, loop.create_future(), observer, span, key, time.perf_counter(), length, until
        )
        if length > 1:
            queue.check(request)
        queue.add(request)
        if not queue.listed:
            queue.listed = True
            queue.spent = max(queue.spent, self._spent)
            self._ready.append(queue)
        self._schedule_soon(loop)
        return request.future

    def shut_down(self) -> None:
        self._executor.shut_down()
        self.models.shut_down()

    def _schedule_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled:
            self._scheduled = True
            # Two turns of the loop from now: a request that is being read in this one is parsed in the next, and joins
            # the batch. (With 16 clients batches are twice as large as after one turn; a lone row waits some 10 µs.)
            loop.call_soon(loop.call_soon, self._schedule, loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin batches: quick ones here, one for each queue, others while threads are free.

        The queue that has had the least time is the first, and those that have had much more have no turn beside it.
        """
        self._scheduled = False
        until = time.perf_counter() + _ON_LOOP_SECONDS
        if len(self._ready) > 1:
            self._ready.sort(key=_spent)
        passed_over: list[ModelQueue] = []
        started: list[ModelQueue] = []
        most_spent = math.inf
        while self._ready and time.perf_counter() <= until:
            queue = self._ready.pop(0)
            quick = queue.quick(_AT_ONCE_SECONDS)
            room = quick or self._executor.has_slot(queue, others=bool(self._ready or passed_over or started))
            if not room or queue.spent > most_spent:
                passed_over.append(queue)
                continue
            most_spent = min(most_spent, queue.spent + _ON_LOOP_SECONDS)
            batch = queue.take()
            if queue.rows > 0:
                started.append(queue)
            else:
                queue.listed = False
            if batch is None:
                continue
            self._spent = max(self._spent, queue.spent)
            if quick:
                self._run_here(queue, batch)
            else:
                self._executor.run(loop, queue, batch)
        self._ready = [*passed_over, *self._ready, *started]
        others = len(self._ready) > 1
        if any(queue.quick(_AT_ONCE_SECONDS) or self._executor.has_slot(queue, others=others) for queue in self._ready):
            self._schedule_soon(loop)

    def _run_here(self, queue: ModelQueue, batch: InferenceBatch) -> None:
        processor = time.thread_time()
        batch.run()
        queue.spent += batch.seconds
        # Processor time: this thread may have waited for a core meanwhile.
        if batch.seconds > _ON_LOOP_SECONDS and time.thread_time() - processor > _MUCH_TOO_LONG_SECONDS:
            queue.model.mistrust()
        self._settle(batch)

    def _freed(self, loop: asyncio.AbstractEventLoop, batch: InferenceBatch | None) -> None:
        """A batch has come back from its thread, or has freed its slot for others."""
        if batch is not None:
            self._settle(batch)
        if self._ready:
            self._schedule_soon(loop)

    def _settle(self, batch: InferenceBatch) -> None:
        try:
            batch.settle()
            if self._on_batch is not None:
                self._on_batch(batch)
        except Exception as error:  # the next batches must begin all the same
            _LOG.exception("the results of a batch could not be delivered")
            batch.fail(error)
