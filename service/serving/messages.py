"""Requests and answers over ASGI: the head is read once, the body is bounded, the answer is two messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from service.api.plumbing.access import headers_of
from service.api.plumbing.access_log import request_id_of
from service.api.plumbing.problems import BODY_TIMEOUT_S, stalled, too_large
from service.serving.deadlines import too_late
from service.transport.exchange import exchange_of

Header = tuple[bytes, bytes]
#: A larger answer is only complete when the client has read most of it.
_LARGE_BYTES = 64 * 1024


class Answer(NamedTuple):
    """A whole response."""

    body: bytes
    content_type: bytes = b"application/json"
    status: int = 200
    headers: Sequence[Header] = ()


@dataclass(slots=True)
class Request:
    """The head of a request, and its body as it arrives.

    Attributes:
        headers: by lower-case name; of several lines with one name the last.
    """

    scope: Scope
    receive: Receive
    headers: Mapping[bytes, bytes]
    id: str

    @classmethod
    def read(cls, scope: Scope, receive: Receive) -> Request:
        """Read the head."""
        headers = headers_of(scope)
        return cls(scope, receive, headers, request_id_of(headers.get(b"x-request-id", b"")))

    @property
    def query(self) -> bytes:
        """The query string."""
        query: bytes = self.scope["query_string"]
        return query

    @property
    def content_type(self) -> str:
        """The media type of the body, without its parameters, in lower case."""
        given = self.headers.get(b"content-type", b"")
        return given.partition(b";")[0].strip().lower().decode("latin-1")

    async def body(self, limit: int, until: float, arrived: Callable[[int], None]) -> bytes:
        """Read the body; `arrived` is called with the size of every piece.

        Raises TooLarge, Stalled where nothing arrives for a minute, ClientDisconnect, DeadlineExceeded after `until`
        (on the clock of the event loop), and what `arrived` raises.
        """
        exchange = exchange_of(self.receive)
        if exchange is not None and (whole := exchange.take_body()) is not None:
            if len(whole) > limit:
                raise too_large(limit)
            arrived(len(whole))
            return whole
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        received = 0
        chunks: list[bytes] = []
        more = True
        while more:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            received += len(chunk)
            if received > limit:
                raise too_large(limit)
            if more and asyncio.get_running_loop().time() > until:  # a byte a minute would never end
                raise too_late()
            arrived(len(chunk))
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await self.receive()
        except TimeoutError:
            raise stalled() from None

    async def answer(self, send: Send, answer: Answer) -> None:
        """Send it; a large one has left, but for the last of it, when this returns."""
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", self.id.encode()),
            *answer.headers,
        ]
        large = len(answer.body) > _LARGE_BYTES
        exchange = None if large else exchange_of(self.receive)
        if exchange is not None and exchange.answer(answer.status, headers, answer.body):
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": large})
        if large:
            # Written after this turn of the loop; only then the next send waits for a slow client.
            await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b""})
