"""The executor: slots for batches in threads, with separate slots for long batches and an end to runs that hang.

A batch holds a slot while it runs. One that runs on becomes a long batch: its slot is free for others again, so that a
slow model costs them its share of the cores and no more. A run whose requests are all closed is asked to end; ONNX
Runtime checks for that between two nodes.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

from service.predict.engine.batching import BATCH_SECONDS, InferenceBatch, ModelQueue

#: A batch that is expected to take longer, or has, is a long one; most are cut to `BATCH_SECONDS`.
_LONG_SECONDS = 1.5 * BATCH_SECONDS
#: Long batches at once, beyond one for each ordinary slot; a single model may fill only as many as that.
_MORE_LONG = 4
#: How often running batches are checked.
_CHECK_S = 0.02
#: How long a run may go on that has been asked to end: of processor time, since on a busy machine it may wait for a
#: core before it can see the request, and at the longest.
_GRACE_S = 1.0
MAX_GRACE_S = 10.0


class InferenceThread:
    def __init__(self, done: Callable[[InferenceThread, InferenceBatch], None]) -> None:
        self._done = done
        self._batches: SimpleQueue[InferenceBatch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def run(self, batch: InferenceBatch) -> None:
        """Run a batch, and call `done` in this thread afterwards."""
        self._batches.put(batch)

    def processor_seconds(self) -> float:
        """Processor time of the thread so far; wall-clock time where the system does not measure it."""
        if sys.platform == "linux" and self._thread.ident is not None and self._thread.is_alive():
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))
        return time.monotonic()

    def end(self) -> None:
        self._batches.put(None)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            batch.run()
            self._done(self, batch)
            del batch  # its arrays are freed now, not when the next batch arrives


@dataclass(slots=True, eq=False)
class _Running:
    queue: ModelQueue
    batch: InferenceBatch
    thread: InferenceThread
    since: float
    long: bool
    asked_at: float | None = None
    processor_then: float = 0.0


class Executor:
    """Ordinary slots, and some for long batches; used on the event loop only.

    Args:
        runs: ordinary batches at once.
        on_free: called on the event loop when a slot has become free, with the batch if one has ended.
        on_stuck: called there with the file of a run that goes on after its deadline although it was asked to end.
        longest_grace: seconds until that, where the run has had hardly any processor time.
    """

    def __init__(
        self,
        runs: int,
        *,
        on_free: Callable[[asyncio.AbstractEventLoop, InferenceBatch | None], None],
        on_stuck: Callable[[str], None] | None = None,
        longest_grace: float = MAX_GRACE_S,
    ) -> None:
        self._runs = runs
        self._on_free = on_free
        self._on_stuck = on_stuck
        self._longest_grace = longest_grace
        self._idle: list[InferenceThread] = []
        self._running: dict[InferenceBatch, _Running] = {}
        self._ordinary = self._long = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def has_slot(self, queue: ModelQueue, *, others: bool) -> bool:
        """True where the queue's next batch may begin.

        One batch beyond the ordinary slots may be queued, if no row would join it or other models wait as well.
        """
        if queue.next_cost() > _LONG_SECONDS:
            return self._long < self._runs + _MORE_LONG and queue.long_batches < self._runs
        if queue.long_batches and not queue.model.limits.sizes_follow_shapes:
            return False  # the cost of its rows is not known, and a batch under way shows that it may be high
        return self._ordinary < self._runs + (others or queue.full)

    def run(self, loop: asyncio.AbstractEventLoop, queue: ModelQueue, batch: InferenceBatch) -> None:
        """Begin a batch, for which `has_slot` was true."""
        self._loop = loop
        long = queue.model.cost(batch.rows, batch.slices[0].request.length) > _LONG_SECONDS
        thread = self._idle.pop() if self._idle else InferenceThread(self._done)
        thread.run(batch.make_terminable())
        self._running[batch] = _Running(queue, batch, thread, time.monotonic(), long)
        self._count(queue, long, +1)
        if self._timer is None:
            self._timer = loop.call_later(_CHECK_S, self._check)

    def shut_down(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def _count(self, queue: ModelQueue, long: bool, by: int) -> None:
        if long:
            self._long += by
            queue.long_batches += by
        else:
            self._ordinary += by

    def _done(self, thread: InferenceThread, batch: InferenceBatch) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._settled, batch)

    def _settled(self, batch: InferenceBatch) -> None:
        running = self._running.pop(batch)
        self._count(running.queue, running.long, -1)
        running.queue.spent += batch.seconds
        self._idle.append(running.thread)
        assert self._loop is not None
        self._on_free(self._loop, batch)

    def _check(self) -> None:
        """Free the slots of batches that take long, and end runs whose requests are all closed."""
        assert self._loop is not None
        self._timer = None
        now, freed = time.monotonic(), False
        for running in list(self._running.values()):
            seconds = now - running.since
            if not running.long and seconds > _LONG_SECONDS and self._long < self._runs + _MORE_LONG:
                self._count(running.queue, False, -1)
                self._count(running.queue, True, +1)
                running.long = freed = True
            if not running.batch.awaited:
                self._end(running, now)
        if freed:
            self._on_free(self._loop, None)
        if self._running:
            self._timer = self._loop.call_later(_CHECK_S, self._check)

    def _end(self, running: _Running, now: float) -> None:
        if running.asked_at is None:
            running.asked_at, running.processor_then = now, running.thread.processor_seconds()
            running.batch.terminate()
            return
        assert self._loop is not None
        if self._on_stuck is None or self._loop.time() - running.batch.until < _GRACE_S:
            return  # a client that leaves early must not end the process: the deadline has to have passed, too
        worked = running.thread.processor_seconds() - running.processor_then
        if worked > _GRACE_S or now - running.asked_at > self._longest_grace:
            self._on_stuck(running.queue.digest)
