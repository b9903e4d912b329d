"""The doorbell, rung from a thread of its own so that nobody waits for a broker; it knows no broker.

A message says no more than "look into this queue", so one per queue is enough however much was put into it meanwhile.
What is never said is found all the same: workers look into the queues once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from service.registry.repositories import Ring

#: Sends one message about a record to a queue; whatever goes wrong is its own business.
Send = Callable[[Ring], None]

_PATIENCE_S, _PAUSE_S = 2.0, 0.05


class Bell:
    """Takes rings from any thread, and says each queue's newest one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[str, Ring] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
        self._thread.start()

    def ring(self, rings: Sequence[Ring]) -> None:
        """Return at once."""
        with self._changed:
            self._waiting.update({ring.queue: ring for ring in rings})
            self._changed.notify()

    def close(self) -> None:
        """Say what waits, if the broker takes it soon, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                rings, self._waiting = list(self._waiting.values()), {}
                if not rings:
                    return
            for ring in rings:
                self._send(ring)
            with self._changed:  # what comes in a burst is said once
                self._changed.wait_for(lambda: self._closed, _PAUSE_S)
