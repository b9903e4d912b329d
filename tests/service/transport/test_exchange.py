"""Whole messages over a connection take the short way, and say the same as ASGI's messages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.server import _MemoryTransport
from service.transport.head_protocol import exchange_of
from service.transport.protocol import Protocol

BODY = b"x" * 10
HEADERS = [(b"content-length", b"10"), (b"x-request-id", b"a")]


async def short(scope: Any, receive: Any, send: Any) -> None:
    """Answer what was sent in one piece; without that, as `long`."""
    exchange = exchange_of(receive)
    assert exchange is not None
    body = exchange.take_body()
    if body is None or not exchange.answer(200, HEADERS, body):
        await long(scope, receive, send, body)


async def long(scope: Any, receive: Any, send: Any, body: bytes | None = None) -> None:
    """Answer what was sent in ASGI's messages."""
    more = body is None
    body = body or b""
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": body})


def written(app: Any, *pieces: bytes, defaults: Any = ()) -> tuple[bytes, bool]:
    """The bytes that a connection writes on these pieces, and True where it closes."""

    async def talk() -> tuple[bytes, bool]:
        config = uvicorn.Config(app, http=Protocol, ws="none", log_config=None)
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"today"), *defaults]
        transport = _MemoryTransport()
        protocol = Protocol(config=config, server_state=state, app_state={})
        protocol.connection_made(transport)
        for piece in pieces:
            protocol.data_received(piece)
            await asyncio.sleep(0.01)
        closed = transport.closed.is_set()
        protocol.connection_lost(None)
        return bytes(transport.written), closed

    return asyncio.run(talk())


def post(version: str = "1.1", method: str = "POST", **headers: str) -> bytes:
    """The head of a request."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} / HTTP/{version}\r\nHost: h\r\nContent-Length: 10\r\n{lines}\r\n".encode()


@pytest.mark.parametrize(
    "pieces",
    [
        [post() + BODY],
        [post() + BODY[:3], BODY[3:]],
        [post() + BODY + post() + BODY],
        [post(Connection="close") + BODY],
        [post("1.0") + BODY],
        [post(Expect="100-continue"), BODY],
        [post(method="HEAD") + BODY],
    ],
)
def test_both_ways_write_the_same(pieces: list[bytes]) -> None:
    """Bodies in one piece and in several, pipelined requests, connections to be closed, heads without bodies."""
    found = written(short, *pieces)
    assert found == written(long, *pieces)
    assert found[0].count(b"200 OK") == b"".join(pieces).count(b"HTTP/1")


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answer without reading the body, in ASGI's messages."""
    await send({"type": "http.response.start", "status": 404, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def refuse_shortly(scope: Any, receive: Any, send: Any) -> None:
    """Refuse a request in one piece."""
    exchange = exchange_of(receive)
    assert exchange is not None
    assert exchange.answer(404, HEADERS, BODY)


@pytest.mark.parametrize("app", [refuse, refuse_shortly])
def test_a_refusal_before_100_continue_ends_the_connection(app: Any) -> None:
    """A body may or may not follow: the next request is neither read as a body nor answered."""
    answers, closed = written(app, post(Expect="100-continue"), b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answers.count(b"HTTP/1.1 404") == 1
    assert b"connection: close" in answers
    assert closed


@pytest.mark.parametrize("app", [refuse, refuse_shortly])
def test_a_refusal_before_the_last_chunk_ends_the_connection(app: Any) -> None:
    """The chunks that follow are read by nothing: neither what stands in them nor behind them is answered."""
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers, closed = written(app, head + b"1\r\na\r\n", b"0\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (answers.count(b"HTTP/1.1 404"), answers.count(b"connection: close"), closed) == (1, 1, True)
    answers, closed = written(app, head + b"1\r\na\r\n0\r\n\r\n", b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (answers.count(b"HTTP/1.1 404"), answers.count(b"connection: close"), closed) == (2, 0, False)


def test_a_server_that_shuts_down_closes_the_connection() -> None:
    """The default headers of a server that shuts down say so."""
    closing = [(b"connection", b"close")]
    found = written(short, post() + BODY, defaults=closing)
    assert found == written(long, post() + BODY, defaults=closing)
    assert found[1]


def test_others_have_no_exchange() -> None:
    """Over another server, or behind a middleware, the long way is taken."""
    assert exchange_of(asyncio.sleep) is None  # type: ignore[arg-type]
