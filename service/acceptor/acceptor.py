"""The acceptor: it looks at the head of the first request of a connection, and hands the connection on.

It takes nothing from the connection: the process that answers reads the head again. It knows no key, parses no body and
runs no model. Later requests of a connection are answered, or the connection is handed on, where it is then.
"""

from __future__ import annotations

import argparse
import logging
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_network

from pydantic import TypeAdapter

from service.acceptor.handing_on import PEEKED_BYTES, Client, HandingOn, Lingering, is_whole, written
from service.heartbeat import Heartbeat
from service.ipc.channel import Channel, Closed, Malformed, Packet, ThrottledLog
from service.ipc.documents import Connection, Gone, Peer, ToAcceptor
from service.transport.connections import Connections, allow_many_connections
from service.transport.request_head import too_late, too_many

_LOG = logging.getLogger("fedlas.acceptor")
#: How long a head may take from its first byte, and a connection until then: browsers open some ahead.
HEAD_S = 15.0
SILENCE_S = 30.0
#: How long a connection may still send its head after the signal.
_LAST_CALL_S = 1.0
_AT_ONCE = 64  # connections of one turn, so that what arrived is looked at, too
_TICK_S = 0.5
_RETRY_S = 0.01
_READ: TypeAdapter[ToAcceptor] = TypeAdapter(ToAcceptor)


@dataclass(slots=True, eq=False)
class _Waiting:
    client: Client
    until: float
    begun: bool = False


class Acceptor:
    """The loop of the process.

    Args:
        listener: where clients connect.
        channel: tells of the other processes.
        admission: the limits of connections that wait here.
    """

    def __init__(self, listener: socket.socket, channel: socket.socket, *, admission: Connections) -> None:
        self._listener = listener
        self._admission = admission
        self._waiting: dict[int, _Waiting] = {}
        self._log = ThrottledLog(_LOG)
        self._lingering = Lingering()
        self._handing_on = HandingOn(self._lingering, admission.release)
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
        while (self._waiting or self._handing_on or self._lingering) and time.monotonic() < last_call:
            self._turn(beat)

    def _turn(self, beat: Callable[[], None]) -> None:
        for descriptor, events in self._poll.poll(_RETRY_S if self._handing_on else _TICK_S):
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor == self._channel.fileno():
                self._listen()
            elif (waiting := self._waiting.get(descriptor)) is not None:
                self._look_at(waiting, ended=bool(events & select.EPOLLRDHUP))
        now = time.monotonic()
        if now >= self._next_retry:
            self._next_retry = now + _RETRY_S
            self._handing_on.hand_on_waiting(now)
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
                self._log.warning("accepting", f"no connection is accepted: {error}")
                time.sleep(_RETRY_S)
                return
            client.setblocking(False)
            self._take_in(Client(client, address[0]))

    def _take_in(self, client: Client) -> None:
        if not self._is_admitted(client):
            return
        waiting = _Waiting(client, time.monotonic() + SILENCE_S)
        # Edges only: what is looked at stays in the socket.
        self._poll.register(client.socket, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
        self._waiting[client.socket.fileno()] = waiting
        self._look_at(waiting)

    def _is_admitted(self, client: Client) -> bool:
        if (surplus := self._admission.admit(client.address)) is not None:
            self._lingering.answer(client.socket, written(client.path, too_many(surplus)))
        return surplus is None

    def _look_at(self, waiting: _Waiting, *, ended: bool = False) -> None:
        """Hand the connection on with a whole head; close it where its client has `ended` before that."""
        client = waiting.client
        try:
            head = client.socket.recv(PEEKED_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if is_whole(head):
            self._forget(waiting)
            self._handing_on.hand_on(client)
        elif ended or not head:
            self._forget(waiting)
            self._admission.release(client.address)
            client.socket.close()
        elif not waiting.begun:
            waiting.begun, waiting.until = True, time.monotonic() + HEAD_S

    def _forget(self, waiting: _Waiting) -> None:
        del self._waiting[waiting.client.socket.fileno()]
        self._poll.unregister(waiting.client.socket)

    def _give_up(self, now: float) -> None:
        for waiting in [waiting for waiting in self._waiting.values() if waiting.until < now]:
            client = waiting.client
            self._forget(waiting)
            self._admission.release(client.address)
            if waiting.begun:
                self._lingering.answer(client.socket, written(client.path, too_late(HEAD_S)))
            else:
                client.socket.close()

    def _listen(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = self._channel.receive()
                if packet is None:
                    return
                self._take(packet)
            except Closed:
                self._poll.unregister(self._channel.fileno())
                return
            except (Malformed, OSError) as error:  # costs the message, and the connection that came with it
                self._log.warning("messages", f"a message cannot be read, which may be of another release: {error}")

    def _take(self, packet: Packet[ToAcceptor]) -> None:
        with closing(packet):
            match packet.document:
                case Peer(name=name):
                    self._handing_on.meet(name, Channel(packet.take_socket(), _READ))
                case Gone(name=name):
                    self._handing_on.part(name)
                case Connection():  # handed back, or rescued from a process that has ended
                    self._take_back(packet)

    def _take_back(self, packet: Packet[ToAcceptor]) -> None:
        connection = packet.take_socket()
        try:
            name = connection.getpeername()
        except OSError:  # its client has gone
            connection.close()
            return
        # A pair of sockets has no address.
        client = Client(connection, name[0] if isinstance(name, tuple) else "", packet.taken())
        if self._is_admitted(client):
            self._handing_on.hand_on(client)
        else:
            client.packet.close()


def main() -> int:
    """Accept until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m service.acceptor.acceptor")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--channel", type=int, required=True, help="the channel of this process")
    parser.add_argument("--most", type=int, default=0, help="connections that may wait here")
    parser.add_argument("--per-address", type=int, default=0, help="of them those of one address")
    parser.add_argument("--trusted-proxy", type=ip_network, action="append", default=[], help="has no such limit")
    parser.add_argument("--heartbeat", type=int, help="write a byte into this pipe while the process lives")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
    allow_many_connections()
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))
    acceptor = Acceptor(
        socket.socket(fileno=options.fd),
        socket.socket(fileno=options.channel),
        admission=Connections.limited(options.most, options.per_address, options.trusted_proxy),
    )
    acceptor.run(going_on=lambda: not signals, beat=Heartbeat(options.heartbeat).beat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
