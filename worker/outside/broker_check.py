"""Whether this worker still hears the broker: it sends itself a message now and then, and waits for it to arrive.

A consumer can stay alive and connected and yet hear nothing any more, for example after a reset of Redis. So what
counts as alive is that messages are consumed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_LOG = logging.getLogger("fedlas.worker")

#: How often a message is sent, and after how long without one the worker counts as deaf.
_EVERY_S, _DEAF_AFTER_S = 10.0, 45.0


class BrokerCheck:
    """Sends, hears, and keeps a file fresh for health checks while all is well.

    Args:
        send: sends this worker a message; raises where the broker is away, which is not this worker's fault.
        file: touched as long as the worker is not deaf.
    """

    def __init__(self, send: Callable[[], None], file: Path) -> None:
        self._send = send
        self.file = file
        self._sent_at = 0.0
        self._unheard_since: float | None = None
        file.parent.mkdir(parents=True, exist_ok=True)

    def hear(self) -> None:
        """A message of our own has arrived."""
        self._unheard_since = None

    @property
    def deaf(self) -> bool:
        """Whether messages have gone out for long, and none has arrived."""
        return self._unheard_since is not None and time.monotonic() - self._unheard_since > _DEAF_AFTER_S

    def look(self) -> None:
        """Send a message if it is time, and keep the file fresh."""
        if time.monotonic() - self._sent_at >= _EVERY_S:
            self._sent_at = time.monotonic()
            try:
                self._send()
                self._unheard_since = self._unheard_since or self._sent_at
            except Exception as error:  # whatever the broker's client raises: nothing was sent, nothing is missing
                self._unheard_since = None
                _LOG.warning("the broker is away: %s", type(error).__name__)
        if not self.deaf:
            with suppress(OSError):  # a full disk makes nobody deaf
                self.file.touch()

    def close(self) -> None:
        """The worker ends."""
        self.file.unlink(missing_ok=True)
