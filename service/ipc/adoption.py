"""Connections that another process accepted, and connections that are handed to another process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection
from contextlib import suppress

from service.ipc.channel import Malformed, Packet
from service.ipc.documents import Connection

_LOG = logging.getLogger(__name__)
TCP = frozenset({socket.AF_INET, socket.AF_INET6})


class Adoption:
    """Answers connections that come over channels; on the event loop.

    Args:
        protocol: makes the protocol of one connection, of which these bytes were received already.
        families: of the sockets that are taken. A pair of sockets is no client: a process that was taken over would
            make requests of its own.
    """

    def __init__(
        self, protocol: Callable[[bytes], asyncio.Protocol], families: Collection[socket.AddressFamily] = TCP
    ) -> None:
        self._protocol = protocol
        self._families = families
        self._tasks: set[asyncio.Task[object]] = set()

    def adopt(self, packet: Packet[Connection]) -> None:
        """Answer the requests of this connection from now on; raises Malformed for what is no connection."""
        client = packet.take_socket()
        try:
            if client.family not in self._families or client.type != socket.SOCK_STREAM:
                raise Malformed(f"a socket that is no connection of a client: {client.family.name}")
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
