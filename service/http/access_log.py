"""The access log: one line for each request, without anything that may be secret (query strings, headers, bodies).

A line is `POST /v1/jobs 202 12.3 ms req_… job_…`: method, path, status, time until the answer had left, request id,
and the record that the request made or was answered by. Lines are noted by the event loop, in less than a microsecond,
and written by a thread, so that whoever reads the log slowly delays no answer. Every answer has its `X-Request-Id`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from random import getrandbits
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.access import headers_of
from service.http.problems import defect, printable

_LOG = logging.getLogger("fedlas.api.access")

_EVERY_S = 0.25
#: Predictions that have a line of their own within `_EVERY_S`: a hundred a second; the others are counted.
_MAX_PREDICTIONS = 25
#: Lines that wait while nobody reads the log; later ones are counted.
_MAX_WAITING = 10_000
_MAX_PATH = 300
#: The status of a request whose client went away before the answer, as nginx writes it.
GONE = 499


class Access(NamedTuple):
    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    record_id: str = ""
    prediction: bool = False

    def __str__(self) -> str:
        path = printable(self.path[:_MAX_PATH])
        made = f" {self.record_id}" if self.record_id else ""
        return f"{self.method} {path} {self.status} {1000 * self.seconds:.1f} ms {self.request_id}{made}"


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
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None

    def note(self, access: Access) -> None:
        if self._thread is None:
            return
        if len(self._noted) < _MAX_WAITING:
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
            if not access.prediction or predictions <= _MAX_PREDICTIONS:
                _LOG.info("%s", access)
        if predictions > _MAX_PREDICTIONS:
            _LOG.info(
                "%d more predictions in %.2g s have no line of their own", predictions - _MAX_PREDICTIONS, _EVERY_S
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
            self._log.note(
                Access(scope["method"], scope["path"], status, time.perf_counter() - began, request_id, made)
            )


_LOST = logging.getLogger(__name__)
#: The key of a page's request id, which its calls of the API carry, too.
SCOPE_KEY = "fedlas.request_id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


def request_id_of(given: bytes) -> str:
    """The client's own id of its request if it is harmless, else a new one."""
    text = given.decode("latin-1")
    return text if text and _REQUEST_ID.fullmatch(text) else f"req_{getrandbits(96):024x}"


class RequestIdMiddleware:
    """Adds the id to every answer, also to those of defects, which it logs; requests find it as `scope[SCOPE_KEY]`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(headers_of(scope).get(b"x-request-id", b""))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Content-Security-Policy", "frame-ancestors 'none'")
            await send(message)

        try:
            await self.app({**scope, SCOPE_KEY: request_id}, receive, send_with_id)
        except ClientDisconnect:
            _LOST.info("%s %s: the client has disconnected", scope["method"], scope["path"])
        except Exception as error:
            # Answered here: further out the id is not known, and uvicorn would close the connection without an answer.
            if started:
                raise
            await defect(scope["method"], scope["path"], error)(scope, receive, send_with_id)
