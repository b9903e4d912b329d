"""Requests and answers over ASGI, with their deadlines: the head is read once, the body is bounded and inflated.

Outputs are awaited until the deadline or until the client disconnects.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from service.http.access import headers_of
from service.http.access_log import request_id_of
from service.http.problems import BODY_TIMEOUT_S, stalled, too_large
from service.predict.engine.profile import Outputs
from service.predict.formats.json_inputs import shown
from service.registry.errors import DeadlineExceeded, InvalidRequest, TooLarge
from service.transport.head_protocol import exchange_of

#: Most answers are there sooner; only for the others it is worth detecting a disconnect.
_LISTEN_AFTER_S = 0.02
_MAX_SECONDS = 3600.0
Header = tuple[bytes, bytes]
#: A larger answer is only complete when the client has read most of it.
_LARGE_BYTES = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
_ALWAYS_BYTES = 8 << 20
_MAX_RATIO = 100


class Waits:
    """The requests that wait for outputs, until their deadlines or until their clients disconnect.

    One timer serves all of them: most outputs are there before it fires, and one for each request takes longer than all
    that is done with its answer.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[Outputs], _Wait] = {}  # those without a listener
        self._listening: set[asyncio.Future[Outputs]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def outputs(self, future: asyncio.Future[Outputs], receive: Receive, *, until: float) -> Outputs:
        """The outputs, as soon as the scheduler has them.

        Args:
            until: on the clock of the event loop.

        Raises:
            DeadlineExceeded: at that time; rows that still wait are given up.
            ClientDisconnect: when the client disconnects; rows that still wait are given up.
        """
        loop = asyncio.get_running_loop()
        wait = self._waiting[future] = _Wait(receive, until, min(loop.time() + _LISTEN_AFTER_S, until))
        if self._timer is None or wait.listen_at < self._due or loop is not self._loop:
            self._wake_at(loop, wait.listen_at)
        try:
            return await future
        finally:
            self._waiting.pop(future, None)
            if wait.listener is not None:
                wait.listener.cancel()
                self._listening.discard(future)

    def fail(self, make: Callable[[], Exception]) -> None:
        """Set an error as the result of all that is awaited: the process ends."""
        for future in (*self._waiting, *self._listening):
            if not future.done():
                future.set_exception(make())

    def _wake_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop, self._due = loop, due
        self._timer = loop.call_at(due, self._listen_to_late, loop)

    def _listen_to_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for future, wait in list(self._waiting.items()):
            if wait.listen_at <= now:
                del self._waiting[future]  # thousands may wait for a slow model, and each wake-up looks at all here
                wait.listener = loop.create_task(_listen(future, wait.receive, wait.until))
                self._listening.add(future)
        if self._waiting:
            self._wake_at(loop, min(wait.listen_at for wait in self._waiting.values()))


@dataclass(slots=True)
class _Wait:
    """A request that waits, and from when on it is worth detecting its disconnect."""

    receive: Receive
    until: float
    listen_at: float
    listener: asyncio.Task[None] | None = None


async def _listen(future: asyncio.Future[Outputs], receive: Receive, until: float) -> None:
    reason: Exception
    try:
        async with asyncio.timeout_at(until):
            while (await receive())["type"] != "http.disconnect":
                pass
        reason = ClientDisconnect()
    except TimeoutError:
        reason = too_late()
    with suppress(asyncio.InvalidStateError):
        future.set_exception(reason)


def too_late() -> DeadlineExceeded:
    """The error of a request whose time is up."""
    return DeadlineExceeded("deadline_exceeded", "the answer was not ready in the time that the request gives")


def seconds_given(text: str, most: float) -> float:
    """The seconds that `X-Request-Timeout` gives, at most `most`; raises InvalidRequest."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds <= _MAX_SECONDS:
        needed = f"expected seconds, more than 0 and at most {_MAX_SECONDS:.0f}"
        raise InvalidRequest("invalid_request", f"X-Request-Timeout is {text[:40]!r}; {needed}")
    return min(seconds, most)


class Answer(NamedTuple):
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
        headers = headers_of(scope)
        return cls(scope, receive, headers, request_id_of(headers.get(b"x-request-id", b"")))

    @property
    def content_type(self) -> str:
        """The media type of the body, without its parameters, in lower case."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")

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


def inflated(body: bytes, encoding: str, *, limit: int) -> bytes:
    """The body as it was before it was compressed.

    `encoding` is gzip, deflate (with zlib's wrapping, as the standard has it, or raw, as some send it), identity or
    nothing. No more than `limit` bytes are ever made, nor, beyond 8 MiB, more than 100 times what was sent: numbers as
    they are measured shrink by a tenth to a half, and only zeros shrink to a thousandth.

    Raises:
        TooLarge: `too_large`, more than so many bytes.
        InvalidRequest: `unsupported_encoding`; `invalid_encoding` for what is cut off, damaged or followed by more.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    limit = min(limit, max(_ALWAYS_BYTES, _MAX_RATIO * len(body)))
    inflater = zlib.decompressobj(_window(body, name))
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise _invalid(f"the body is not {name}: {error}") from error
    if len(content) > limit:
        raise _too_large(limit)
    if not inflater.eof:
        raise _invalid(f"the {name} body is cut off after {len(body)} bytes")
    if inflater.unused_data:
        raise _invalid(f"{len(inflater.unused_data)} bytes follow the end of the {name} body")
    return content


def _window(body: bytes, name: str) -> int:
    if name in ("gzip", "x-gzip"):
        return _GZIP
    if name != "deflate":
        message = f"Content-Encoding {shown(name)} is not read; known are gzip, deflate and identity"
        raise InvalidRequest("unsupported_encoding", message)
    # RFC 1950: method 8, and the first two bytes are a multiple of 31. No encoder begins a raw stream like that.
    return _ZLIB if len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0 else _RAW


def _too_large(limit: int) -> TooLarge:
    return TooLarge("too_large", f"the body has, or becomes, more than {limit} bytes, the most that it may have")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest("invalid_encoding", message)
