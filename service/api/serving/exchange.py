"""One request and its answer, as plainly as ASGI allows: the head read once, the body bounded, two messages back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from service.api.middleware import PATIENCE_S, request_id_of, stalled, too_large

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    body: bytes
    content_type: bytes = b"application/json"
    status: int = 200
    headers: Sequence[Header] = ()


@dataclass(slots=True)
class Request:
    """What a prediction is asked with.

    Attributes:
        headers: by lower-case name; of several lines with one name the last.
    """

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    id: str

    @classmethod
    def read(cls, scope: Scope, receive: Receive) -> Request:
        """Read the head."""
        headers = dict(scope["headers"])
        return cls(scope, receive, headers, request_id_of(headers.get(b"x-request-id", b"").decode("latin-1")))

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

    def declared(self, limit: int) -> int:
        """How many bytes the body has, or may have where that is not said; raises TooLarge beyond the limit."""
        length = self.headers.get(b"content-length", b"")
        size = int(length) if length.isdigit() else limit
        if size > limit:
            raise too_large(limit)
        return size

    async def body(self, limit: int) -> bytes:
        """Read the body; raises TooLarge, Stalled where the client falls silent, ClientDisconnect where it leaves."""
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
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _next(self) -> Message:
        """The next message, awaited for a minute at most: what `asyncio.timeout` does, in a quarter of its time."""
        task = asyncio.current_task()
        assert task is not None
        silent = False

        def give_up() -> None:
            nonlocal silent
            silent = task.cancel()

        timer = asyncio.get_running_loop().call_later(PATIENCE_S, give_up)
        try:
            return await self.receive()
        except asyncio.CancelledError:
            if silent and task.uncancel() == 0:
                raise stalled() from None
            raise
        finally:
            timer.cancel()

    async def answer(self, send: Send, answer: Answer) -> None:
        """Send it."""
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", self.id.encode()),
            *answer.headers,
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
