"""The broker check: the worker sends itself a message now and then, and expects it to arrive.

A consumer can stay alive and connected and yet receive nothing any more, for example after a reset of Redis. So a
worker counts as alive while messages are consumed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_LOG = logging.getLogger("fedlas.worker")

#: How often a message is sent, and after how long without an arrival the check has failed.
_EVERY_S, _FAILED_AFTER_S = 10.0, 45.0
_TICK_S = 1.0


class BrokerCheck:
    """Sends messages, notes arrivals, and touches a file for health checks while they arrive.

    Args:
        send: sends this worker a message; raises where the broker is away, which does not count as a failure.
        file: touched as long as the check has not failed.
        is_listening: whether messages are consumed just now: a worker without a free thread leaves them to others.
    """

    def __init__(
        self, send: Callable[[], None], file: Path, *, is_listening: Callable[[], bool] = lambda: True
    ) -> None:
        self._send = send
        self.file = file
        self._is_listening = is_listening
        self._sent_at = 0.0
        self._missing_since: float | None = None
        file.parent.mkdir(parents=True, exist_ok=True)

    def received(self) -> None:
        """A message of this worker has arrived."""
        self._missing_since = None

    @property
    def failed(self) -> bool:
        """Whether messages have been sent for long, and none has arrived."""
        return self._missing_since is not None and time.monotonic() - self._missing_since > _FAILED_AFTER_S

    def run(self, stopping: threading.Event, on_failure: Callable[[], None]) -> None:
        """Until the worker stops; in a thread of its own, for a call to the broker may hang."""
        while not stopping.wait(_TICK_S):
            self.check()
            if self.failed:
                on_failure()

    def check(self) -> None:
        """Send a message if it is time, and touch the file."""
        if not self._is_listening():
            self._missing_since = None
        elif time.monotonic() - self._sent_at >= _EVERY_S:
            self._sent_at = time.monotonic()
            try:
                self._send()
                self._missing_since = self._missing_since or self._sent_at
            except Exception as error:  # whatever the broker's client raises: nothing was sent, nothing is missing
                self._missing_since = None
                _LOG.warning("the broker is away: %s", type(error).__name__)
        if not self.failed:
            with suppress(OSError):  # a full disk is no failure of the broker
                self.file.touch()

    def close(self) -> None:
        """The worker ends."""
        self.file.unlink(missing_ok=True)
