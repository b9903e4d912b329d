"""A prediction that a page makes: it goes to a serving process as that of any client, over a connection of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import h11
from starlette.types import Receive, Scope, Send

from service.control.peers import ServingPeers
from service.registry.errors import Unavailable

_READ_BYTES = 64 * 1024
_LEFT_OUT = frozenset({b"connection", b"content-length", b"expect", b"transfer-encoding"})


async def forward(peers: ServingPeers, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by what a serving process answers; raises Unavailable where none takes it or one ends meanwhile."""
    body = await _body(receive)
    reader, writer = await _connected(peers, scope)
    try:
        client = h11.Connection(h11.CLIENT)
        headers = [(name, value) for name, value in scope["headers"] if name not in _LEFT_OUT]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        head = client.send(h11.Request(method=scope["method"], target=target, headers=headers))
        writer.write((head or b"") + (client.send(h11.Data(data=body)) or b""))
        client.send(h11.EndOfMessage())
        async for event in _events(client, reader):
            if isinstance(event, h11.Response):
                kept = [item for item in event.headers.raw_items() if item[0].lower() != b"connection"]
                kept = [(name.lower(), value) for name, value in kept]
                await send({"type": "http.response.start", "status": event.status_code, "headers": kept})
            elif isinstance(event, h11.Data):
                await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        writer.close()


async def _body(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _connected(peers: ServingPeers, scope: Scope) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    ours, theirs = socket.socketpair()
    authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    with theirs:
        if not peers.hand_over(scope["path"].encode(), authorization, theirs.fileno(), b""):
            ours.close()
            raise Unavailable("unavailable", "no process that answers predictions is running; come again in 1 s")
    return await asyncio.open_connection(sock=ours)


async def _events(client: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[h11.Response | h11.Data]:
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            try:
                client.receive_data(await reader.read(_READ_BYTES))
            except (ConnectionError, h11.RemoteProtocolError):
                raise Unavailable("unavailable", "the process that answers predictions has ended") from None
        elif isinstance(event, h11.Response | h11.Data):
            yield event
        else:
            return
