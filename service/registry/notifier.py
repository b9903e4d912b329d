"""The notifier: sends permits to the broker from a thread of its own, so that a commit never waits for it.

While it sends, others gather, and are sent together. A permit that is lost is harmless: workers look for work as well.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from service.registry.repositories import Permit

#: Sends permits to their queues; it must not raise.
Send = Callable[[Sequence[Permit]], None]

_CLOSING_S, _MOST_PENDING = 2.0, 10_000


class Notifier:
    """Takes permits from any thread and sends them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._pending: deque[Permit] = deque(maxlen=_MOST_PENDING)  # what a silent broker keeps waiting is bounded
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def notify(self, permits: Sequence[Permit]) -> None:
        """Hand the permits to the thread; returns at once."""
        with self._changed:
            self._pending.extend(permits)
            self._changed.notify()

    def close(self) -> None:
        """Send what is pending, if the broker takes it soon, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSING_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                permits = list(self._pending)
                self._pending.clear()
            if not permits:
                return
            self._send(permits)
