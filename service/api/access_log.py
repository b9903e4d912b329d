"""The access log: one line for each request, without anything that may be secret (query strings, headers, bodies).

A line is `POST /v1/jobs 202 12.3 ms req_… job_…`: method, path, status, time until the answer had left, request id,
and the record that the request made or was answered by. Lines are noted by the event loop, in less than a microsecond,
and written by a thread, so that whoever reads the log slowly delays no answer.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.printing import printable

_LOG = logging.getLogger("fedlas.api.access")

_EVERY_S = 0.25
#: Predictions that have a line of their own within `_EVERY_S`: a hundred a second; the others are counted.
_MOST_PREDICTIONS = 25
#: Lines that wait while nobody reads the log; later ones are counted.
_MOST_WAITING = 10_000
_LONGEST_PATH = 300
#: Of a request whose client went away before the answer, as nginx writes it.
GONE = 499


class Access(NamedTuple):
    """One request and how it was answered."""

    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    record_id: str = ""
    prediction: bool = False

    def __str__(self) -> str:
        path = printable(self.path[:_LONGEST_PATH])
        line = f"{self.method} {path} {self.status} {1000 * self.seconds:.1f} ms {self.request_id}"
        return f"{line} {self.record_id}" if self.record_id else line


class AccessLog:
    """The log of one API process; it is silent until `start`."""

    def __init__(self) -> None:
        self._noted: list[Access] = []
        self._dropped = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write, where the process logs such lines at all."""
        if _LOG.isEnabledFor(logging.INFO):
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Write what is left, unless the log's reader stands still."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None

    def note(self, access: Access) -> None:
        """Note one request."""
        if self._thread is None:
            return
        if len(self._noted) < _MOST_WAITING:
            self._noted.append(access)
        else:
            self._dropped += 1

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        noted, self._noted = self._noted, []
        dropped, self._dropped = self._dropped, 0
        predictions = 0
        for access in noted:
            predictions += access.prediction
            if not access.prediction or predictions <= _MOST_PREDICTIONS:
                _LOG.info("%s", access)
        if predictions > _MOST_PREDICTIONS:
            _LOG.info(
                "%d more predictions in %.2g s have no line of their own", predictions - _MOST_PREDICTIONS, _EVERY_S
            )
        if dropped:
            _LOG.warning("%d requests have no line: the log was not read for a while", dropped)


class AccessLogMiddleware:
    """Notes every request that passes it; the outermost middleware."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self.app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, headers = time.perf_counter(), GONE, dict[bytes, bytes]()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers.update(message.get("headers", ()))
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            made = headers.get(b"location", b"").decode("latin-1").rpartition("/")[2]
            request_id = headers.get(b"x-request-id", b"").decode("latin-1")
            seconds = time.perf_counter() - began
            self._log.note(Access(scope["method"], scope["path"], status, seconds, request_id, made))
