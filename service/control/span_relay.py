"""The relay of spans: what serving processes have traced goes to the collector as they have written it.

They may have been taken over: nothing of it is read here. What the collector does not take in time is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

import httpx

from service.ipc.throttled_log import ThrottledLog

_LOG = logging.getLogger(__name__)
#: OTLP requests that wait, of 512 spans each, and their bytes: a process that was taken over may send large ones.
_MOST_WAITING, _MOST_BYTES = 32, 16 * 1024**2
#: A collector that does not answer must not keep the process from ending.
_CLOSE_TIMEOUT_S = 5.0


class SpanRelay:
    """Sends OTLP requests, one after the other, on a thread of its own.

    Args:
        export: sends one; may take seconds, and raises what httpx does where the collector does not take it.
    """

    def __init__(self, export: Callable[[bytes], object]) -> None:
        self._export = export
        self._log = ThrottledLog(_LOG)
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="span-relay", daemon=True)
        self._thread.start()

    def pass_on(self, request: bytes) -> None:
        """Send this when it has its turn."""
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING or self._bytes + len(request) > _MOST_BYTES:
                self._log.warning("dropped", "spans are dropped: the collector does not take them in time")
                return
            self._waiting.append(request)
            self._bytes += len(request)
            self._changed.notify()

    def close(self) -> None:
        """Send what waits; gives up after a few seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (request := self._next()) is not None:
            try:
                self._export(request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:  # the next may be sent
                self._log.warning("refused", f"spans were not sent to the collector: {error!r}")

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            request = self._waiting.popleft()
            self._bytes -= len(request)
            return request
