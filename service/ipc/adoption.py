"""Connections that another process accepted, and connections that are handed to another process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from service.ipc.channel import Malformed, Packet
from service.ipc.documents import Connection

_LOG = logging.getLogger(__name__)
_TCP = (socket.AF_INET, socket.AF_INET6)


class Adoption:
    """Answers connections that come over channels; on the event loop.

    Args:
        protocol: makes the protocol of one connection, of which these bytes were received already.
    """

    def __init__(self, protocol: Callable[[bytes], asyncio.Protocol]) -> None:
        self._protocol = protocol
        self._tasks: set[asyncio.Task[object]] = set()

    def adopt(self, packet: Packet[Connection]) -> None:
        """Answer the requests of this connection from now on; raises Malformed for what is no connection."""
        client = packet.take_socket()
        try:
            # A pair of sockets is no client: a process that was taken over would make requests of its own.
            if client.family not in _TCP or client.type != socket.SOCK_STREAM:
                raise Malformed("a socket that is no TCP connection")
            client.setblocking(False)
            client.getpeername()
        except (OSError, Malformed) as error:
            client.close()
            if isinstance(error, Malformed):
                raise
            return  # the client has gone meanwhile
        task = asyncio.ensure_future(self._answered(client, packet.content))
        self._tasks.add(task)  # the loop keeps only weak references to tasks
        task.add_done_callback(self._tasks.discard)

    async def _answered(self, client: socket.socket, received: bytes) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            await loop.connect_accepted_socket(lambda: self._protocol(received), client)
