"""A relay: it reads the head of each connection's first request and then passes bytes on, both ways, to another port.

python -m benchmarks.wall.relay PORT TARGET
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

_MOST_HEAD, _PIECE = 64 * 1024, 256 * 1024


async def _relayed(client: asyncio.StreamReader, answers: asyncio.StreamWriter, target: int) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        head = await client.readuntil(b"\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", target)
        writer.write(head)
        await asyncio.gather(_passed_on(client, writer), _passed_on(reader, answers))


async def _passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


async def _serve(port: int, target: int) -> None:
    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _relayed(reader, writer, target)

    server = await asyncio.start_server(accepted, "127.0.0.1", port, limit=_MOST_HEAD, backlog=2048)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
