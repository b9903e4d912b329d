"""An exchange of a connection, one request and its answer: uvicorn's cycle, with a short way for whole messages.

ASGI takes four messages, an event and a timer for what has arrived and leaves in one piece: a fifth of what a small
prediction costs. `exchange_of` finds it for the application; another server has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.transport.request_head import Header

_CLOSE = (b"connection", b"close")


class Exchange(RequestResponseCycle):
    """One request and its answer."""

    @classmethod
    def of(cls, connection: HttpToolsProtocol, scope: Any, *, keeps_alive: bool, expects: bool) -> Exchange:
        """The next one of a connection.

        Args:
            keeps_alive: whether the connection is kept after the answer.
            expects: whether the client waits for `100 Continue`.
        """
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
        """Whether the connection ends with the answer, since a body may follow that nothing reads.

        Where the client still waits for `100 Continue` it is unknown whether one does, so what comes next could be read
        in two ways. A body in chunks may have no end, and each chunk of one byte costs a microsecond to parse.
        """
        headers: Any = self.scope.get("fedlas.headers", ())
        return self.waiting_for_100_continue or (self.more_body and b"transfer-encoding" in headers)

    async def send(self, message: Message) -> None:  # type: ignore[override]  # uvicorn names each event
        """As ASGI has it."""
        if message["type"] == "http.response.start" and self._leaves_body:
            message = {**message, "headers": [*message.get("headers", []), _CLOSE]}
        await super().send(message)  # type: ignore[arg-type]


def exchange_of(receive: Receive) -> Exchange | None:
    """The exchange whose `receive` this is; None over another server, or behind a middleware."""
    found = getattr(receive, "__self__", None)
    return found if isinstance(found, Exchange) else None
