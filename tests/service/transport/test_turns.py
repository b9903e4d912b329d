"""Turns of the event loop: what all connections parse in one of them is bounded, and nothing that waits is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from service.server import _MemoryTransport
from service.transport.connections import Connections
from service.transport.protocol import Protocol

HEAD = b"POST /%b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"1\r\na\r\n"
NUM_CHUNKS = 40_000  # 240 kB on the wire, as much as a transport reads at once
TURN_BYTES, PIECE_BYTES, HEAD_START_BYTES = 128 * 1024, 16 * 1024, 1024


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer how many bytes came."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    answer = b"%d" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


class Counting(_MemoryTransport):
    """Knows whether it is read from."""

    paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def connecting() -> Callable[[], tuple[Protocol, Counting]]:
    """Makes connections of one process."""
    protocol: Any = partial(Protocol, connections=Connections())
    config = uvicorn.Config(app, http=protocol, ws="none", log_config=None)
    config.load()

    def connect() -> tuple[Protocol, Counting]:
        transport = Counting()
        made: Protocol = protocol(config=config, server_state=ServerState(), app_state={})
        made.connection_made(transport)
        return made, transport

    return connect


def test_a_flood_of_chunks_is_parsed_in_many_turns() -> None:
    """A turn parses 128 KiB of 20 floods of 240 kB, besides how each begins; a small request is answered meanwhile."""

    async def flood() -> None:
        connect = connecting()
        floods = [connect() for _ in range(20)]
        for protocol, _ in floods:
            protocol.data_received(HEAD % b"flood" + CHUNK * NUM_CHUNKS)
        most = (TURN_BYTES + PIECE_BYTES + len(floods) * HEAD_START_BYTES) // len(CHUNK)
        assert 0 < sum(len(protocol.cycle.body) for protocol, _ in floods if protocol.cycle) <= most
        assert all(transport.paused for _, transport in floods)
        small, answered = connect()
        small.data_received(HEAD % b"small" + CHUNK + b"0\r\n\r\n")
        for _ in range(3):
            await asyncio.sleep(0)
        assert answered.written.endswith(b"\r\n\r\n1")
        assert all(transport.paused for _, transport in floods)
        assert all(protocol.cycle for protocol, _ in floods)  # each has had its turn
        while any(transport.paused for _, transport in floods):
            await asyncio.sleep(0)
        for protocol, transport in floods:
            protocol.data_received(b"0\r\n\r\n")
            await transport_ends(transport, b"\r\n\r\n%d" % NUM_CHUNKS)

    asyncio.run(flood())


def test_what_comes_while_the_rest_waits_is_parsed_after_it() -> None:
    """The rest is parsed also where the client has ended its side before, and where it has gone."""

    async def flood() -> None:
        connect = connecting()
        (protocol, transport), (gone, _) = connect(), connect()
        for one in (gone, protocol):
            one.data_received(HEAD % b"first" + CHUNK * NUM_CHUNKS)
        gone.connection_lost(None)
        protocol.data_received(CHUNK + b"0\r\n\r\n")
        assert protocol.eof_received()
        await transport_ends(transport, b"\r\n\r\n%d" % (NUM_CHUNKS + 1))
        assert transport.closed.is_set()

    asyncio.run(flood())


async def transport_ends(transport: Counting, end: bytes) -> None:
    """Wait until what was written ends so."""
    async with asyncio.timeout(30):
        while not transport.written.endswith(end):
            await asyncio.sleep(0)
