"""The acceptor: it looks at the head of the first request of a connection, and hands the connection on.

It takes nothing from the connection: the process that answers reads the head again. It knows no key, parses no body and
runs no model. Later requests of a connection are answered, or the connection is handed on, where it is then.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter

from service.acceptor.heads import PEEKED_BYTES, is_whole, path_and_key
from service.acceptor.lingering import Lingering
from service.acceptor.refusals import busy, head_stalled, too_many
from service.ipc.channel import Channel, Full, Malformed, Packet
from service.ipc.documents import Connection, Gone, Peer, Places, ToAcceptor
from service.ipc.placement import Placement
from service.transport.connections import Connections

_LOG = logging.getLogger("fedlas.acceptor")
#: How long a head may take from its first byte, and a connection until then: browsers open some ahead.
HEAD_S, SILENCE_S = 15.0, 30.0
#: How long a connection may still send its head after the signal.
_LAST_CALL_S = 1.0
#: How long a process that does not take its connections is waited for: it is being started again.
_UNTAKEN_S = 30.0
_AT_ONCE = 64  # connections of one turn, so that what arrived is looked at, too
_TICK_S, _RETRY_S = 0.5, 0.01
_READ: TypeAdapter[ToAcceptor] = TypeAdapter(ToAcceptor)


@dataclass(slots=True, eq=False)
class _Waiting:
    client: socket.socket
    address: str
    until: float
    begun: bool = False


@dataclass(slots=True, eq=False)
class _Untaken:
    client: socket.socket
    place: str
    received: bytes = b""
    until: float = 0.0


class Acceptor:
    """The loop of the process.

    Args:
        listener: where clients connect.
        channel: tells of the other processes.
        admission: the limits of connections that wait here.
    """

    def __init__(
        self, listener: socket.socket, channel: socket.socket, *, placement: Placement, admission: Connections
    ) -> None:
        self._listener = listener
        self._placement = placement
        self._admission = admission
        self._peers: dict[str, Channel[ToAcceptor]] = {}
        self._by_place: dict[str, deque[Channel[ToAcceptor]]] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._untaken: deque[_Untaken] = deque()
        self._lingering = Lingering()
        self._next_look = self._next_retry = 0.0
        self._poll = select.epoll()
        listener.setblocking(False)
        self._poll.register(listener, select.EPOLLIN)
        self._channel = Channel(channel, _READ)
        self._poll.register(self._channel.fileno(), select.EPOLLIN)

    def run(self, *, going_on: Callable[[], bool], beat: Callable[[], None]) -> None:
        """Accept until `going_on` is false, and call `beat` twice a second."""
        while going_on():
            self._turn(beat)
        self._poll.unregister(self._listener)
        last_call = time.monotonic() + _LAST_CALL_S
        while (self._waiting or self._untaken or self._lingering) and time.monotonic() < last_call:
            self._turn(beat)

    def _turn(self, beat: Callable[[], None]) -> None:
        for descriptor, events in self._poll.poll(_RETRY_S if self._untaken else _TICK_S):
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor == self._channel.fileno():
                self._listen()
            elif (waiting := self._waiting.get(descriptor)) is not None:
                self._look_at(waiting, ended=bool(events & select.EPOLLRDHUP))
        now = time.monotonic()
        if self._untaken and now >= self._next_retry:
            self._next_retry = now + _RETRY_S
            self._hand_on_again(now)
        if now >= self._next_look:
            self._next_look = now + _TICK_S
            beat()
            self._give_up(now)
            self._lingering.sweep(now)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:  # no file is free: the others end in time
                _LOG.warning("no connection is accepted: %s", error)
                time.sleep(_RETRY_S)
                return
            client.setblocking(False)
            if (surplus := self._admission.admit(address[0])) is not None:
                self._lingering.answer(client, too_many(_path(client), surplus))
                continue
            waiting = _Waiting(client, address[0], time.monotonic() + SILENCE_S)
            # Edges only: what is looked at stays in the socket.
            self._poll.register(client, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
            self._waiting[client.fileno()] = waiting
            self._look_at(waiting)

    def _look_at(self, waiting: _Waiting, *, ended: bool = False) -> None:
        """Hand the connection on with a whole head; close it where its client has `ended` before that."""
        try:
            head = waiting.client.recv(PEEKED_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if is_whole(head):
            self._forget(waiting)
            self._hand_on(_Untaken(waiting.client, self._placement.place(*path_and_key(head))))
        elif ended or not head:
            self._forget(waiting)
            waiting.client.close()
        elif not waiting.begun:
            waiting.begun, waiting.until = True, time.monotonic() + HEAD_S

    def _forget(self, waiting: _Waiting) -> None:
        del self._waiting[waiting.client.fileno()]
        self._poll.unregister(waiting.client)
        self._admission.release(waiting.address)

    def _hand_on(self, untaken: _Untaken) -> None:
        """To a process of this place, each in turn; or later."""
        members = self._by_place.get(untaken.place, deque())
        for _ in range(len(members)):
            members.rotate(-1)
            with suppress(Full):
                members[-1].send(Connection(), untaken.received, files=[untaken.client.fileno()])
                untaken.client.close()
                return
        untaken.until = untaken.until or time.monotonic() + _UNTAKEN_S
        self._untaken.append(untaken)

    def _hand_on_again(self, now: float) -> None:
        untaken, self._untaken = self._untaken, deque()
        for one in untaken:
            if now > one.until:
                self._lingering.answer(one.client, busy(_path(one.client, one.received)))
            else:
                self._hand_on(one)

    def _give_up(self, now: float) -> None:
        for waiting in [waiting for waiting in self._waiting.values() if waiting.until < now]:
            self._forget(waiting)
            if waiting.begun:
                self._lingering.answer(waiting.client, head_stalled(_path(waiting.client)))
            else:
                waiting.client.close()

    def _listen(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = self._channel.receive()
            except Malformed as error:
                _LOG.warning("a message that cannot be read: %s", error)
                continue
            if packet is None:
                return
            with suppress(Malformed):
                self._take(packet)
            packet.close()

    def _take(self, packet: Packet[ToAcceptor]) -> None:
        match packet.document:
            case Peer(name=name):
                self._meet(name, Channel(packet.take_socket(), _READ))
            case Gone(name=name):
                self._part(name)
            case Places(alone=alone):
                self._placement.alone = alone
            case Connection():  # handed back, or rescued from a process that has ended
                client = packet.take_socket()
                client.setblocking(False)
                place = self._placement.place(*path_and_key(packet.content or _peeked(client)))
                self._hand_on(_Untaken(client, place, packet.content))

    def _meet(self, name: str, channel: Channel[ToAcceptor]) -> None:
        self._part(name)
        self._peers[name] = channel
        self._by_place.setdefault(self._placement.place_of(name), deque()).append(channel)

    def _part(self, name: str) -> None:
        if (channel := self._peers.pop(name, None)) is not None:
            self._by_place[self._placement.place_of(name)].remove(channel)
            channel.close()


def _peeked(client: socket.socket) -> bytes:
    with suppress(OSError):
        return client.recv(PEEKED_BYTES, socket.MSG_PEEK)
    return b""


def _path(client: socket.socket, received: bytes = b"") -> bytes:
    return path_and_key(received or _peeked(client))[0]
