"""Threads that run batches: each takes one batch at a time and calls back from its own thread.

A thread whose batch takes much longer than it should is given a smaller share of the cores, and ends with that batch:
an ordinary user may lower a thread's priority, and not raise it again.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from service.inference.batching import InferenceBatch

#: Of a core that two threads want, one at niceness 5 gets a quarter beside one at 0.
_LOW_PRIORITY = 5


class InferenceThread:
    """One thread and the batch that it runs."""

    def __init__(self, done: Callable[[InferenceThread, InferenceBatch], None]) -> None:
        self._done = done
        self._batches: SimpleQueue[InferenceBatch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()
        self.lowered = False

    def run(self, batch: InferenceBatch) -> None:
        """Run it, and call `done` in this thread afterwards."""
        self._batches.put(batch)

    def lower_priority(self) -> None:
        """Leave the cores to others first."""
        self.lowered = True
        if sys.platform == "linux" and self._thread.native_id is not None:
            try:
                os.setpriority(os.PRIO_PROCESS, self._thread.native_id, _LOW_PRIORITY)
            except OSError:  # it has just ended, or the system forbids even this
                return

    def processor_seconds(self) -> float:
        """Processor time that the thread has taken so far; the clock where the system does not tell."""
        if sys.platform == "linux" and self._thread.ident is not None and self._thread.is_alive():
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))
        return time.monotonic()

    def end(self) -> None:
        """End when the batch that it runs, if any, is done."""
        self._batches.put(None)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            batch.run()
            self._done(self, batch)
            del batch  # what it holds is not kept until the next one comes


class InferenceThreads:
    """The threads there are, made as they are needed."""

    def __init__(self, done: Callable[[InferenceThread, InferenceBatch], None]) -> None:
        self._done = done
        self._idle: list[InferenceThread] = []

    def run(self, batch: InferenceBatch) -> InferenceThread:
        """Run a batch in a thread of its own; `give_back` the thread when it is done."""
        runner = self._idle.pop() if self._idle else InferenceThread(self._done)
        runner.run(batch)
        return runner

    def give_back(self, runner: InferenceThread) -> None:
        """Its batch is done."""
        if runner.lowered:
            runner.end()
        else:
            self._idle.append(runner)

    def shut_down(self) -> None:
        """End those that have nothing to do."""
        while self._idle:
            self._idle.pop().end()
