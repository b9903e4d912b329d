"""A throttled log: warnings that others can bring about, one of each kind in ten seconds."""

from __future__ import annotations

import logging
import time

_PAUSE_S = 10.0


class ThrottledLog:
    """Passes warnings on to a logger."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next: dict[str, float] = {}

    def warning(self, kind: str, text: str, error: Exception | None = None) -> None:
        """Log this, with the traceback of an error, unless one of the kind was logged a moment ago."""
        now = time.monotonic()
        if now >= self._next.get(kind, 0.0):
            self._next[kind] = now + _PAUSE_S
            self._log.warning("%s", text, exc_info=error)
