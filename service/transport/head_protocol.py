"""The reading side of an HTTP/1.1 connection: uvicorn's protocol with heads bounded in bytes, time and meaning.

`HttpToolsProtocol` and its cycle are no public classes; `server.check_server` tries the installed ones at start. An
exchange is one request and its answer: the cycle with a short way for whole messages, since ASGI takes four messages,
an event and a timer for what has arrived and leaves in one piece, a fifth of what a small prediction costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.responses import Response
from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.http.access_log import request_id_of
from service.http.problems import problem
from service.transport.connections import MAX_PENDING_HEAD_BYTES, Connections
from service.transport.request_head import (
    HEAD_BYTES,
    Header,
    Refusal,
    fault,
    malformed,
    origin_form,
    too_late,
    too_long,
    too_many,
    without_upgrade,
)

_CLOSE = (b"connection", b"close")
#: How long a head may take from its first byte.
HEAD_S = 15.0
#: How long a surplus connection is read from, so that its answer has the form of the protocol that it asks for.
SURPLUS_S = 1.0
#: Requests of one connection that wait for the answer to an earlier one (HTTP pipelining).
_MAX_PIPELINED = 16
#: Bytes that are parsed at once of what is no body of known length: a chunk of one byte costs as much as one of a MiB.
_PIECE_BYTES = 16 * 1024
#: So much of what arrives is parsed in any turn of the loop: ordinary heads, behind which bodies of known length come.
_HEAD_START_BYTES = 1024
_RELEASED: Any = None


class Exchange(RequestResponseCycle):
    @classmethod
    def of(cls, connection: HttpToolsProtocol, scope: Any, *, keeps_alive: bool, expects: bool) -> Exchange:
        """The next head of a connection that it `keeps_alive` and whose client `expects` `100 Continue`."""
        return cls(
            scope=scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keeps_alive,
            on_response=connection.on_response_complete,
        )

    def take_body(self) -> bytes | None:
        """The body, where all of it has arrived and none of it was read; else None, and `receive` has to be awaited."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        self.flow.resume_reading()
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> bool:
        """Write a whole answer in one packet; False, and nothing is written, where `send` has to be awaited.

        The headers are the service's own: values of a client must have been checked for line breaks.
        """
        if self.flow.write_paused or self.disconnected or self.response_started or self.scope["method"] == "HEAD":
            return False
        self.keep_alive &= not self._leaves_body
        lines = [*self.default_headers, *headers]
        if not self.keep_alive and _CLOSE not in lines:
            lines.append(_CLOSE)
        elif _CLOSE in lines:
            self.keep_alive = False
        head = b"".join([b"%b: %b\r\n" % line for line in lines])
        self.response_started = self.response_complete = True
        self.transport.write_now(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))  # type: ignore[attr-defined]
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True

    @property
    def _leaves_body(self) -> bool:
        """True where the connection ends with the answer, since a body may follow that nothing reads.

        Where the client still waits for `100 Continue` it is unknown whether one does, so what comes next could be read
        in two ways. A body in chunks may have no end, and each chunk of one byte costs a microsecond to parse.
        """
        headers: Any = self.scope.get("fedlas.headers", ())
        return self.waiting_for_100_continue or (self.more_body and b"transfer-encoding" in headers)

    async def send(self, message: Message) -> None:  # type: ignore[override]  # uvicorn names each event
        if message["type"] == "http.response.start" and self._leaves_body:
            message = {**message, "headers": [*message.get("headers", []), _CLOSE]}
        await super().send(message)  # type: ignore[arg-type]


def exchange_of(receive: Receive) -> Exchange | None:
    """The exchange whose `receive` this is; None over another server, or behind a middleware."""
    owner = getattr(receive, "__self__", None)
    return owner if isinstance(owner, Exchange) else None


class _Stop(Exception):
    """Raised in a callback to stop the parser in the middle of a piece."""


class HeadProtocol(HttpToolsProtocol):
    """The reading side of a connection.

    - A head that is longer than 64 KiB, later than 15 s or ambiguous is refused, and the connection closed.
    - What all connections parse in one turn of the event loop is bounded (`ReadingTurns`).
    - Trailers are dropped: the parser reports them like headers, after the headers were checked.
    - An upgrade is ignored.
    """

    def __init__(self, *args: Any, connections: Connections | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admission = connections or Connections()
        self._surplus: str | None = None  # why this connection is beyond a limit
        self._answering: RequestResponseCycle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._silent = True  # nothing was received yet
        self._refused = False  # what is received is dropped
        self._begun = False  # the head of a request has begun
        self._in_body = False
        self._body_left = 0  # bytes of a body of known length
        self._rest = b""  # bytes that are not parsed yet
        self._waits = False  # for a later turn of the loop, to parse them
        self._upgrading = False
        self._advanced = False  # the parser completed something within the present piece
        self._pending = 0  # bytes since it last did
        self.url = b""
        self.headers: list[Header] = []

    def data_received(self, data: bytes) -> None:
        """Called by the transport, with up to 256 KiB."""
        if self._refused:
            return
        self._rest += data
        if self._waits:
            self.transport.pause_reading()  # an application that reads its body has resumed it
        else:
            self._parse_rest(_HEAD_START_BYTES)

    def _parse_rest(self, free: int = 0) -> None:
        """Parse what has arrived, as far as this turn of the event loop allows, and so much of it in any case."""
        while self._rest and not self._refused:
            size = self._body_left or min(free or _PIECE_BYTES, HEAD_BYTES - self._pending, len(self._rest))
            if not (self._body_left or free or self._admission.turns.take(size, self.loop)):
                self._wait()
                break
            free = 0
            piece, self._rest = self._rest[:size], self._rest[size:]
            self._take(piece)
        if (self._begun or self._timer is not None) and not self._refused:
            self._time_head()
        self._silent = False

    def _wait(self) -> None:
        """Parse the rest in a later turn, unless too many bytes of heads wait; a body is bounded by its reader."""
        if self._admission.turns.wait(self._go_on, 0 if self._in_body else len(self._rest)):
            self._waits = True
            self.transport.pause_reading()
        else:
            self._refuse(too_many("too many heads are being received"))

    def _go_on(self) -> None:
        self._waits = False
        self._parse_rest()
        if not self._waits and not self.flow.read_paused:
            self.transport.resume_reading()

    def _take(self, data: bytes) -> None:
        """Parse a piece, which ends where the head would be too long, or with the body."""
        self._advanced = False
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._take_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self._refused:
                self._refuse(malformed(f"this is no HTTP/1.1: {str(error) or 'the request line'}"))
            return
        if self._advanced:
            if self._pending:
                self._count(0)
        else:
            self._count(self._pending + len(data))

    def _count(self, pending: int) -> None:
        self._admission.pending_head_bytes += pending - self._pending
        self._pending = pending
        if pending >= HEAD_BYTES:
            between = "what stands before, between or after chunks of the body is too long"
            self._refuse(malformed(between) if self._in_body else too_long(self.url))
        elif pending and self._admission.pending_head_bytes > MAX_PENDING_HEAD_BYTES:
            self._refuse(too_many("too many heads are being received"))

    def _take_upgrade(self, rest: bytes) -> None:
        """Parse a request that asks for an upgrade again as an ordinary one, and then the rest of the piece."""
        while True:
            self._upgrading = False
            head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:  # those are answered; the client sends the rest again
            self.cycle.keep_alive = False
            self._refused = True
            raise _Stop
        super().on_message_begin()
        self._begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too."""
        if not self._in_body:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called by the parser: the request is answered now or after earlier ones."""
        self._advanced = True
        parser, scope = self.parser, self.scope
        method, version = parser.get_method(), parser.get_http_version()
        if parser.should_upgrade() and method != b"CONNECT":
            self._upgrading = True
            return
        by_name = dict(self.headers)
        if self._surplus is not None:
            wrong: Refusal | None = too_many(self._surplus)
        elif method == b"CONNECT":  # what follows would be a tunnel's, whatever its path
            wrong = malformed("CONNECT asks for a tunnel, and this is no proxy; send GET or POST")
        else:
            wrong = fault(version, self.url, self.headers, by_name)
        scope["method"] = method.decode()
        if wrong is not None:
            self._refuse(wrong)
            raise _Stop
        self._begun, self._in_body = False, True
        self._body_left = int(by_name.get(b"content-length", 0))
        scope["http_version"] = version
        scope["raw_path"], scope["query_string"] = path, _ = origin_form(self.url)
        if self._departs(method, path):
            raise _Stop
        text = path.decode()
        scope["path"] = unquote(text) if "%" in text else text
        scope["fedlas.headers"] = by_name  # type: ignore[typeddict-unknown-key]
        keeps = parser.should_keep_alive() and version == "1.1"
        self._begin(Exchange.of(self, scope, keeps_alive=keeps, expects=b"expect" in by_name), self.app)

    def _departs(self, method: bytes, path: bytes) -> bool:
        return False

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        if self._body_left:
            self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._advanced = True  # what ends a chunked body comes after the last piece of it
        if not self._upgrading:
            self._in_body = False
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, refusal: Refusal) -> None:
        self._refused = True
        self._no_timer()
        last = self.cycle
        if self._in_body and last is not None:
            if self.pipeline and self.pipeline[0][0] is last:
                self.pipeline.popleft()
            elif last.response_started:
                self.transport.close()
                return
            last.disconnected = True
            last.message_event.set()
        answer: Any = _answer(refusal, self.url, self.headers)
        plain: Any = {"type": "http", "method": "GET", "http_version": "1.1", "path": "", "query_string": b""}
        cycle = Exchange.of(self, {**plain, **(self.scope or {}), "headers": []}, keeps_alive=False, expects=False)
        self.parser, self.scope, self.url, self.headers = _RELEASED, _RELEASED, b"", []  # they hold what was received
        self._rest = b""
        self._begin(cycle, answer)

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.cycle = cycle
        if not self._is_answering:
            self._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))

    @property
    def _is_answering(self) -> bool:
        running = self._answering
        return not (running is None or running.response_complete or running.disconnected)

    def _time_head(self) -> None:
        if not self._in_body and (self._begun or self.cycle is None):
            if self._silent or self._timer is None:
                self._no_timer()
                self._timer = self.loop.call_later(SURPLUS_S if self._surplus else HEAD_S, self._on_time)
        elif self._timer is not None:
            self._no_timer()

    def _on_time(self) -> None:
        self._timer = None
        self._refuse(too_many(self._surplus) if self._surplus else too_late(HEAD_S))

    def _no_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _answer(refusal: Refusal, url: bytes, headers: list[tuple[bytes, bytes]]) -> Response:
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    headers_out = {**refusal.headers, "Connection": "close", "X-Request-Id": request_id_of(given)}
    return problem(refusal.status, refusal.code, refusal.detail, path=url.decode("latin-1"), headers=headers_out)
