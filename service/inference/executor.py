"""Places for batches in threads: so many at once, long ones in places of their own, and an end to those that hang.

A place is held by a batch while it runs. One that runs on becomes a long one: its place is free for others again, so
that a slow model costs them its share of the cores and no more; if it takes far longer than it should, that share
becomes smaller. A run that nobody waits for is asked to end; ONNX Runtime looks whether it should between two nodes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from service.inference.batching import InferenceBatch
from service.inference.model_queue import BATCH_SECONDS, ModelQueue
from service.inference.run_threads import InferenceThread, InferenceThreads

#: A batch that is expected to take longer, or has, is a long one; most are cut to `BATCH_SECONDS`.
_LONG_SECONDS = 1.5 * BATCH_SECONDS
#: Long batches at once, beyond one for each ordinary place; a single model may fill only as many as that.
_MORE_LONG = 4
#: A batch that takes so many times as long as it should is no ordinary one.
_FAR_OFF = 4.0
#: How often running batches are looked at.
_LOOK_S = 0.02
#: How long a run may go on that has been asked to end: of processor time, since on a busy machine it may have to wait
#: for a core before it can see that it was asked, and at the longest.
_GRACE_S, _LONGEST_GRACE_S = 1.0, 10.0


@dataclass(slots=True, eq=False)
class _Running:
    line: ModelQueue
    batch: InferenceBatch
    runner: InferenceThread
    since: float
    expected: float
    long: bool
    asked_at: float | None = None
    processor_then: float = 0.0


class Executor:
    """So many ordinary places, and some for long batches; lives on the event loop.

    Args:
        runs: ordinary batches at once.
        on_free: called on the event loop when a place has become free, with the batch if one has come back.
        on_stuck: called there with the file of a run that goes on although its time is up and it was asked to end.
    """

    def __init__(
        self,
        runs: int,
        *,
        on_free: Callable[[asyncio.AbstractEventLoop, InferenceBatch | None], None],
        on_stuck: Callable[[str], None] | None = None,
    ) -> None:
        self._runs = runs
        self._on_free = on_free
        self._on_stuck = on_stuck
        self._runners = InferenceThreads(self._done)
        self._running: dict[InferenceBatch, _Running] = {}
        self._ordinary = self._long = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def room_for(self, line: ModelQueue, *, others: bool) -> bool:
        """Whether the line's next batch may begin.

        One more than there are threads may be next, if no row would join it or other lines wait as well.
        """
        if line.next_cost() > _LONG_SECONDS:
            return self._long < self._runs + _MORE_LONG and line.heavy < self._runs
        if line.heavy and not line.model.limits.sizes_follow_shapes:
            return False  # what its rows cost is not known, and one of them shows that it may be much
        return self._ordinary < self._runs + (others or line.full)

    def run(self, loop: asyncio.AbstractEventLoop, line: ModelQueue, batch: InferenceBatch) -> None:
        """Begin a batch; there must be room for it."""
        self._loop = loop
        expected = line.model.cost(batch.rows, batch.slices[0].request.length)
        long = expected > _LONG_SECONDS
        runner = self._runners.run(batch.can_be_ended())
        self._running[batch] = _Running(line, batch, runner, time.monotonic(), expected, long)
        self._count(line, long, +1)
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_S, self._look)

    def shut_down(self) -> None:
        """No more batches are begun."""
        self._runners.shut_down()

    def _count(self, line: ModelQueue, long: bool, by: int) -> None:
        if long:
            self._long += by
            line.heavy += by
        else:
            self._ordinary += by

    def _done(self, runner: InferenceThread, batch: InferenceBatch) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            self._loop.call_soon_threadsafe(self._settled, batch)

    def _settled(self, batch: InferenceBatch) -> None:
        running = self._running.pop(batch)
        self._count(running.line, running.long, -1)
        running.line.spent += batch.seconds
        self._runners.give_back(running.runner)
        assert self._loop is not None
        self._on_free(self._loop, batch)

    def _look(self) -> None:
        """Look at what runs: make room behind what takes long, and end what nobody waits for."""
        assert self._loop is not None
        self._timer = None
        now, freed = time.monotonic(), False
        for running in list(self._running.values()):
            seconds = now - running.since
            if not running.long and seconds > _LONG_SECONDS and self._long < self._runs + _MORE_LONG:
                self._count(running.line, False, -1)
                self._count(running.line, True, +1)
                running.long = freed = True
            if not running.runner.lowered and seconds > max(_LONG_SECONDS, _FAR_OFF * running.expected):
                running.runner.lower_priority()
            if not running.batch.awaited:
                self._end(running, now)
        if freed:
            self._on_free(self._loop, None)
        if self._running:
            self._timer = self._loop.call_later(_LOOK_S, self._look)

    def _end(self, running: _Running, now: float) -> None:
        if running.asked_at is None:
            running.asked_at, running.processor_then = now, running.runner.processor_seconds()
            running.batch.terminate()
            return
        assert self._loop is not None
        if self._on_stuck is None or self._loop.time() - running.batch.until < _GRACE_S:
            return  # a client that leaves early has no right to end the process: its time has to be up, too
        worked = running.runner.processor_seconds() - running.processor_then
        if worked > _GRACE_S or now - running.asked_at > _LONGEST_GRACE_S:
            self._on_stuck(running.line.digest)
