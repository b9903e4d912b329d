"""Inference threads: each runs one batch at a time and reports its end from the same thread.

A thread whose batch takes much longer than expected gets a smaller share of the cores, and ends with that batch: an
ordinary user may lower a thread's priority, and not raise it again.
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
    """One thread."""

    def __init__(self, done: Callable[[InferenceThread, InferenceBatch], None]) -> None:
        self._done = done
        self._batches: SimpleQueue[InferenceBatch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()
        self.lowered = False

    def run(self, batch: InferenceBatch) -> None:
        """Run a batch, and call `done` in this thread afterwards."""
        self._batches.put(batch)

    def lower_priority(self) -> None:
        """Lower the priority of the thread for the rest of its life."""
        self.lowered = True
        if sys.platform == "linux" and self._thread.native_id is not None:
            try:
                os.setpriority(os.PRIO_PROCESS, self._thread.native_id, _LOW_PRIORITY)
            except OSError:  # the thread has just ended, or the system forbids even this
                return

    def processor_seconds(self) -> float:
        """Processor time of the thread so far; wall-clock time where the system does not measure it."""
        if sys.platform == "linux" and self._thread.ident is not None and self._thread.is_alive():
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))
        return time.monotonic()

    def end(self) -> None:
        """End the thread after the batch that it runs, if any."""
        self._batches.put(None)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            batch.run()
            self._done(self, batch)
            del batch  # its arrays are freed now, not when the next batch arrives


class InferenceThreads:
    """A pool of threads that grows as needed."""

    def __init__(self, done: Callable[[InferenceThread, InferenceBatch], None]) -> None:
        self._done = done
        self._idle: list[InferenceThread] = []

    def run(self, batch: InferenceBatch) -> InferenceThread:
        """Run a batch in a thread of its own; `release` the thread when the batch is done."""
        thread = self._idle.pop() if self._idle else InferenceThread(self._done)
        thread.run(batch)
        return thread

    def release(self, thread: InferenceThread) -> None:
        """Return a thread whose batch is done."""
        if thread.lowered:
            thread.end()
        else:
            self._idle.append(thread)

    def shut_down(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().end()
