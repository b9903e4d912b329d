"""A prediction that a page makes: it goes to a serving process as that of any client, over a connection of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import h11
from starlette.types import Receive, Scope, Send

from service.control.peers import ServingPeers
from service.registry.errors import Unavailable

_READ_BYTES = 64 * 1024
#: A session's cookie is for control alone: the key that it stands for was put in its place.
_LEFT_OUT = frozenset({b"connection", b"expect", b"cookie"})


async def forward(peers: ServingPeers, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by what a serving process answers; raises Unavailable where none takes it or one ends meanwhile."""
    client = h11.Connection(h11.CLIENT)
    reader, writer = await _connected(peers, scope, _head(client, scope))
    asking = asyncio.ensure_future(_send_body(client, writer, receive))
    try:
        async for event in _events(client, reader):
            if isinstance(event, h11.Response):
                kept = [(name.lower(), value) for name, value in event.headers.raw_items()]
                kept = [(name, value) for name, value in kept if name != b"connection"]
                await send({"type": "http.response.start", "status": event.status_code, "headers": kept})
            else:
                await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except Unavailable:
        if client.their_state is h11.SEND_RESPONSE:
            raise  # else an answer has begun: it stays incomplete
    finally:
        asking.cancel()
        writer.close()


def _head(client: h11.Connection, scope: Scope) -> bytes:
    headers = [(name, value) for name, value in scope["headers"] if name not in _LEFT_OUT]
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    request = h11.Request(method=scope["method"], target=target, headers=[*headers, (b"connection", b"close")])
    return client.send(request) or b""


async def _send_body(client: h11.Connection, writer: asyncio.StreamWriter, receive: Receive) -> None:
    """Send the body as it comes in, and close the connection when the client has gone."""
    more = True
    with suppress(ConnectionError, h11.LocalProtocolError):  # it was answered before its end
        while (message := await receive())["type"] == "http.request":
            if more:
                more = message.get("more_body", False)
                writer.write(client.send(h11.Data(data=message.get("body", b""))) or b"")
                writer.write(b"" if more else client.send(h11.EndOfMessage()) or b"")
                await writer.drain()
        writer.close()


async def _connected(
    peers: ServingPeers, scope: Scope, head: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the head was sent: where it waits at the acceptor, that looks at it."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # who gets it cannot
    ours.send(head)
    with theirs:
        if not peers.hand_over(scope["raw_path"], theirs.fileno(), b""):
            ours.close()
            raise Unavailable("unavailable", "no process that answers predictions is running; come again in 1 s")
    return await asyncio.open_connection(sock=ours)


async def _events(client: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[h11.Response | h11.Data]:
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response | h11.Data):
                yield event
    except (ConnectionError, h11.RemoteProtocolError):
        raise Unavailable("unavailable", "the process that answers predictions has ended") from None
