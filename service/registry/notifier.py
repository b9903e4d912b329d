"""The notifier: sends wake-ups to the broker from a thread of its own, so that a commit never waits for it.

A message says "look into this queue", so the newest wake-up of a queue stands for all that came since the last one was
sent. A lost message is harmless: workers poll the queues once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from service.registry.repositories import Permit

#: Sends one wake-up to its queue; it must not raise.
Send = Callable[[Permit], None]

_CLOSING_S, _PAUSE_S = 2.0, 0.05


class Notifier:
    """Takes wake-ups from any thread and sends the newest one of each queue."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._pending: dict[str, Permit] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def notify(self, wake_ups: Sequence[Permit]) -> None:
        """Hand the wake-ups to the thread; returns at once."""
        with self._changed:
            self._pending.update({wake_up.queue: wake_up for wake_up in wake_ups})
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
                wake_ups, self._pending = list(self._pending.values()), {}
                if not wake_ups:
                    return
            for wake_up in wake_ups:
                self._send(wake_up)
            with self._changed:  # a burst is sent as one message per queue
                self._changed.wait_for(lambda: self._closed, _PAUSE_S)
