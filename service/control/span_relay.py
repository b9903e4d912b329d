"""The relay of spans: what serving processes have traced goes to the collector as they have written it.

They may have been taken over: nothing of it is read here. What the collector does not take in time is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Full, Queue

_LOG = logging.getLogger(__name__)
_MOST_WAITING = 32  # OTLP requests, of 512 spans each
#: A collector that does not answer must not keep the process from ending.
_CLOSE_TIMEOUT_S = 5.0


class SpanRelay:
    """Sends OTLP requests, one after the other, on a thread of its own.

    Args:
        export: sends one; may take seconds, and says itself in the log what the collector refuses.
    """

    def __init__(self, export: Callable[[bytes], object]) -> None:
        self._export = export
        self._waiting: Queue[bytes | None] = Queue(_MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="span-relay", daemon=True)
        self._thread.start()

    def pass_on(self, request: bytes) -> None:
        """Send this when it has its turn."""
        try:
            self._waiting.put_nowait(request)
        except Full:
            if self._dropped % 1000 == 0:
                _LOG.warning("spans are dropped: the collector does not take them in time")
            self._dropped += 1

    def close(self) -> None:
        """Send what waits; gives up after a few seconds."""
        try:
            self._waiting.put(None, timeout=_CLOSE_TIMEOUT_S)
        except Full:
            return
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (request := self._waiting.get()) is not None:
            try:
                self._export(request)
            except Exception:  # the next may be sent
                _LOG.exception("spans were not sent")
