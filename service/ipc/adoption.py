"""Connections that another process accepted, and connections that are handed to another process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from service.background_tasks import BackgroundTasks
from service.ipc.channel import Malformed, Packet
from service.ipc.documents import Connection

_LOG = logging.getLogger(__name__)
TCP = frozenset({socket.AF_INET, socket.AF_INET6})


class Adoption:
    """Answers connections that come over channels; on the event loop.

    Args:
        elsewhere: is given those that come before `begin` and after `end`.
        families: of the sockets that are taken. A pair of sockets is no client: a process that was taken over would
            make requests of its own.
    """

    def __init__(
        self, elsewhere: Callable[[Packet[Connection]], object], families: Collection[socket.AddressFamily] = TCP
    ) -> None:
        self._elsewhere = elsewhere
        self._families = families
        self._protocol: Callable[[bytes], asyncio.Protocol] | None = None
        self._tasks = BackgroundTasks()

    def begin(self, protocol: Callable[[bytes], asyncio.Protocol]) -> None:
        """Answer from now on by the protocol that this makes of what was received of a connection before."""
        self._protocol = protocol

    def end(self) -> None:
        """Answer no more."""
        self._protocol = None

    def adopt(self, packet: Packet[Connection]) -> None:
        """Answer the requests of this connection from now on; raises Malformed for what is no connection."""
        if self._protocol is None:
            self._elsewhere(packet)
            return
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
        self._tasks.begin(_answered(client, partial(self._protocol, packet.content)), "a connection")


async def _answered(client: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
    with suppress(OSError):
        await asyncio.get_running_loop().connect_accepted_socket(protocol, client)
