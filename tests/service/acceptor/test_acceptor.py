"""The acceptor over real sockets: each connection goes to a process of its place, whole; who says nothing is let go."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from pydantic import TypeAdapter

from service.acceptor import acceptor as module
from service.acceptor import handing_on
from service.acceptor.acceptor import Acceptor
from service.acceptor.handing_on import Client
from service.ipc.channel import Channel, Packet, pair
from service.ipc.documents import Connection, Gone, Peer
from service.transport.connections import Connections
from tests.helpers.plain_http import answers, connected, received
from tests.helpers.processes import until

READ: TypeAdapter[Connection] = TypeAdapter(Connection)
JOBS = b"GET /v1/jobs HTTP/1.1\r\nHost: a\r\n\r\n"
PREDICT = b"POST /v1/models/spam/predict HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\nContent-Length: 3\r\n\r\nabc"


class Process:
    """A process that takes connections, or not."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self.own, self.other = map(stack.enter_context, map(closing, pair()))
        self.channel = Channel(self.own, READ)
        self._stack = stack

    def taken(self) -> socket.socket:
        """The next connection."""
        packet = until(self.channel.receive, what=f"a connection comes to {self.name}")
        assert (packet.document, packet.content) == (Connection(), b"")
        client = self._stack.enter_context(socket.socket(fileno=packet.take_file()))
        client.settimeout(20)
        return client

    @property
    def idle(self) -> bool:
        """True where no connection has come."""
        found: Packet[Connection] | None = self.channel.receive()
        return found is None

    def fill(self) -> None:
        """Leave no room for a message."""
        self.other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                self.other.send(b"i{}\n")

    def drain(self) -> None:
        """Make room again."""
        self.own.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                self.own.recv(100)


class Bench:
    """An acceptor on a thread of this process, and the parent's end of its channel."""

    def __init__(self, stack: ExitStack, *, most: int = 100) -> None:
        self._stack = stack
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        own, other = map(stack.enter_context, map(closing, pair()))
        self.port: int = listener.getsockname()[1]
        self.parent: Channel[Connection] = Channel(other, READ)
        self.other = other
        self.acceptor = Acceptor(listener, own, admission=Connections(most))
        stack.callback(self._clean_up)
        over = threading.Event()
        thread = threading.Thread(
            target=lambda: self.acceptor.run(going_on=lambda: not over.is_set(), beat=lambda: None)
        )
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)

    def _clean_up(self) -> None:
        """Close what ends with its process."""
        for channel in self.acceptor._handing_on._peers.values():
            channel.close()
        for client in (*(one.client for one in self.acceptor._waiting.values()), *self.untaken):
            client.socket.close()
            client.packet.close()
        for client, _ in self.acceptor._lingering._clients:
            client.close()
        self.acceptor._poll.close()

    @property
    def untaken(self) -> list[Client]:
        """The connections that no process has taken yet."""
        return [client for waiting in self.acceptor._handing_on._waiting.values() for client in waiting]

    def meet(self, name: str) -> Process:
        """A new process of this name."""
        process = Process(name, self._stack)
        self.parent.send(Peer(name=name, pid=1, start=1), files=[process.other.fileno()])
        return process

    def client(self, *pieces: bytes) -> socket.socket:
        """A client that has sent this."""
        found = self._stack.enter_context(connected(self.port))
        for piece in pieces:
            found.sendall(piece)
        return found


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    """Make an acceptor with what the test needs."""
    with ExitStack() as stack:
        yield lambda **options: Bench(stack, **options)


def test_connections_go_where_they_are_answered(make: Callable[..., Bench]) -> None:
    """Connections go by path, and to processes of one place in turn; nothing is taken from them, in any pieces."""
    bench = make()
    control, first, second = bench.meet("control"), bench.meet("serving-1"), bench.meet("serving-2")
    bench.client(JOBS)
    assert control.taken().recv(len(JOBS), socket.MSG_WAITALL) == JOBS
    for _ in range(4):
        bench.client(*[PREDICT[at : at + 50] for at in range(0, len(PREDICT), 50)])
    for process in (first, second, first, second):
        assert process.taken().recv(len(PREDICT), socket.MSG_WAITALL) == PREDICT
    assert (control.idle, first.idle, second.idle) == (True, True, True)


def test_a_process_is_waited_for(make: Callable[..., Bench]) -> None:
    """A connection whose process is full, gone or not there yet goes to the one that takes its place."""
    bench = make()
    early = bench.client(JOBS)
    first = bench.meet("control")
    first.taken()
    first.fill()
    waiting = bench.client(JOBS)
    until(lambda: bench.untaken, what="it waits")
    first.drain()
    first.taken()
    bench.parent.send(Gone(name="control"))
    until(lambda: not bench.acceptor._handing_on._peers, what="it is gone")
    late = bench.client(JOBS)
    second = bench.meet("control")
    second.taken().sendall(b"hello")
    assert late.recv(5) == b"hello"
    assert (first.idle, early.fileno() > 0, waiting.fileno() > 0) == (True, True, True)


def test_connections_that_are_handed_back(make: Callable[..., Bench]) -> None:
    """Connections that a process has not taken at its end come to the acceptor again, and go to its successor."""
    bench = make()
    control = bench.meet("control")
    bench.client(JOBS)
    with control.taken() as client:
        bench.parent.send(Connection(), files=[client.fileno()])
    assert control.taken().recv(len(JOBS), socket.MSG_WAITALL) == JOBS


def test_a_large_message_is_passed_on_as_it_came(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of which much was read goes on in the file that it came in: the acceptor may make none."""
    bench = make()
    bench.client(JOBS)
    control = bench.meet("control")
    with control.taken() as client:
        client.setblocking(False)
        bench.parent.send(Connection(), PREDICT + bytes(200_000), files=[client.fileno()])
    monkeypatch.setattr(os, "memfd_create", None)
    until(lambda: bench.untaken, what="it waits for a process of its place")
    serving = bench.meet("serving-1")
    packet = until(serving.channel.receive, what="it comes to serving")
    assert packet.content == PREDICT + bytes(200_000)
    packet.close()


def test_those_that_wait_for_a_process_are_limited(make: Callable[..., Bench]) -> None:
    """Connections count until they are handed on, also those handed back; one that has gone counts no more."""
    bench = make(most=3)
    clients = [bench.client(JOBS) for _ in range(4)]
    (answer,) = answers(received(clients[3]))
    assert answer.told == (503, "too_many_connections")
    control = bench.meet("control")
    taken = [control.taken() for _ in range(3)]
    bench.parent.send(Gone(name="control"))
    until(lambda: not bench.acceptor._handing_on._peers, what="it is gone")
    for client in (*taken, taken[0]):
        bench.parent.send(Connection(), files=[client.fileno()])
    until(lambda: len(bench.untaken) == 3, what="three wait again")
    assert b"503" in clients[0].recv(100)
    control = bench.meet("control")
    for _ in range(3):
        control.taken()
    bench.client(JOBS)
    control.taken()


def test_who_is_not_answered(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head, silence, no process, and one connection too many: each is let go, with an answer if it asked."""
    monkeypatch.setattr(module, "HEAD_S", 0.3)
    monkeypatch.setattr(module, "SILENCE_S", 0.3)
    monkeypatch.setattr(handing_on, "UNTAKEN_S", 0.3)
    bench = make(most=2)
    half, silent = bench.client(JOBS[:20]), bench.client()
    until(lambda: len(bench.acceptor._waiting) == 2, what="both wait")
    surplus = bench.client(JOBS)
    (answer,) = answers(received(surplus))
    assert (answer.told, answer.headers["retry-after"]) == ((503, "too_many_connections"), "1")
    (answer,) = answers(received(half))
    assert (answer.told, answer.headers["connection"]) == ((408, "head_stalled"), "close")
    assert received(silent) == b""
    (answer,) = answers(received(bench.client(PREDICT.replace(b"/v1/models/spam/predict", b"/v2/models/spam/infer"))))
    assert (answer.status, list(answer.json), answer.headers["retry-after"]) == (503, ["error"], "1")
    assert answer.headers["x-request-id"].startswith("req_")


def test_nothing_that_comes_ends_it_or_stays(make: Callable[..., Bench]) -> None:
    """Clients that leave, what is no HTTP, and messages that it cannot read: it goes on, and keeps no file of them."""
    bench = make()
    control = bench.meet("control")
    bench.client(JOBS)
    control.taken().close()
    before = len(os.listdir("/proc/self/fd"))
    with connected(bench.port) as gone:
        gone.sendall(JOBS[:20])
    connected(bench.port).close()
    reading, writing = os.pipe()
    bench.other.send(b"what?")
    socket.send_fds(bench.other, [b'i{"kind": "connection"}\n'], [reading])
    socket.send_fds(bench.other, [b'i{"kind": "peer", "name": "control"}\n'], [reading])
    socket.send_fds(bench.other, [b'i{"kind": "gone", "name": "serving-1", "more": 1}\n'], [reading])
    bench.other.send(b'i{"kind": "peer", "name": "control"}\n')
    os.close(reading)
    os.close(writing)
    with connected(bench.port) as client:
        client.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        control.taken().close()
    until(lambda: len(os.listdir("/proc/self/fd")) == before, what="no file stays")
