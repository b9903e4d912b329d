"""Connections on their way to the processes that answer them: each is given to one of its place, or waits for one."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

from service.acceptor.heads import PEEKED_BYTES, path_of
from service.acceptor.lingering import Lingering
from service.acceptor.refusals import busy
from service.ipc.channel import Channel, Full, Packet
from service.ipc.documents import Connection, ToAcceptor
from service.ipc.placement import Placement, place_of

#: How long a process that does not take its connections is waited for: it is being started again.
UNTAKEN_S = 30.0


@dataclass(slots=True, eq=False)
class Client:
    """A connection with a whole head; `packet` is what another process has read of it."""

    socket: socket.socket
    address: str
    packet: Packet[ToAcceptor] = field(default_factory=lambda: Packet(Connection()))
    until: float = 0.0

    def peeked(self) -> bytes:
        """Its head, as far as it matters; nothing is taken."""
        if self.packet.content:
            return self.packet.content
        with suppress(OSError):
            return self.socket.recv(PEEKED_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return b""

    @property
    def path(self) -> bytes:
        """The path of its request."""
        return path_of(self.peeked())


class HandingOn:
    """Knows the processes; those of one place take connections in turn.

    Args:
        lingering: answers those that no process takes.
        release: called with the address of each connection that does not wait any more.
    """

    def __init__(self, placement: Placement, lingering: Lingering, release: Callable[[str], None]) -> None:
        self._placement = placement
        self._lingering = lingering
        self._release = release
        self._peers: dict[str, Channel[ToAcceptor]] = {}
        self._by_place: dict[str, deque[Channel[ToAcceptor]]] = {}
        self._waiting: dict[str, deque[Client]] = {}

    def __bool__(self) -> bool:
        """Whether any connection waits."""
        return any(self._waiting.values())

    def meet(self, name: str, channel: Channel[ToAcceptor]) -> None:
        """A process of this name takes connections from now on."""
        self.part(name)
        self._peers[name] = channel
        self._by_place.setdefault(place_of(name), deque()).append(channel)

    def part(self, name: str) -> None:
        """It takes none any more."""
        if (channel := self._peers.pop(name, None)) is not None:
            self._by_place[place_of(name)].remove(channel)
            channel.close()

    def hand_on(self, client: Client) -> None:
        """Give it to a process of its place, after those that wait for the same."""
        place = self._placement.place(path_of(client.peeked()))
        waiting = self._waiting.setdefault(place, deque())
        if waiting or not self._was_given(client, place):
            client.until = client.until or time.monotonic() + UNTAKEN_S
            waiting.append(client)

    def place_anew(self) -> None:
        """Models have other places now, and so may those that wait for them."""
        waiting, self._waiting = self._waiting, {}
        for client in chain.from_iterable(waiting.values()):
            self.hand_on(client)

    def hand_on_waiting(self, now: float) -> None:
        """Give those that wait to who takes them now, and answer those that have waited for too long."""
        for place, waiting in self._waiting.items():
            while waiting and (self._was_given(waiting[0], place) or self._was_refused(waiting[0], now)):
                waiting.popleft()

    def _was_given(self, client: Client, place: str) -> bool:
        members = self._by_place.get(place, deque())
        for _ in range(len(members)):
            members.rotate(-1)
            with suppress(Full):
                if not members[-1].has_room:
                    continue
                members[-1].pass_on(client.packet, [client.socket.fileno()])
                client.socket.close()
                self._let_go(client)
                return True
        return False

    def _was_refused(self, client: Client, now: float) -> bool:
        if now < client.until:
            return False
        self._lingering.answer(client.socket, busy(client.path))
        self._let_go(client)
        return True

    def _let_go(self, client: Client) -> None:
        client.packet.close()
        self._release(client.address)
