"""Adopted connections: those of clients are answered, and nothing else that comes stays open."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from service.ipc.adoption import TCP, Adoption
from service.ipc.channel import Malformed, Packet
from service.ipc.documents import Connection


class Echo(asyncio.Protocol):
    """Sends back what was received before, and what comes."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._received)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._transport.write(data)


def nowhere(packet: Packet[Connection]) -> None:
    """What comes at the wrong time."""
    raise AssertionError(packet)


@pytest.fixture(autouse=True)
def _no_file_stays() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def given(file: int, content: bytes = b"") -> Packet[Connection]:
    """A message with a file of its own."""
    return Packet(Connection(), content, [os.dup(file)])


def tcp(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A client and the connection that was accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = stack.enter_context(closing(socket.create_connection(listener.getsockname(), timeout=20)))
        return client, stack.enter_context(closing(listener.accept()[0]))


def pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A pair of sockets."""
    first, second = socket.socketpair()
    first.settimeout(20)
    return stack.enter_context(closing(first)), stack.enter_context(closing(second))


Made = Callable[[ExitStack], tuple[socket.socket, socket.socket]]


@pytest.mark.parametrize("make", [tcp, pair])
def test_a_client_is_answered(make: Made) -> None:
    """What was read of it before comes first, and what it sends after that."""

    async def talk() -> None:
        with ExitStack() as stack:
            client, accepted = make(stack)
            adoption = Adoption(nowhere, TCP | {socket.AF_UNIX})
            adoption.begin(Echo)
            adoption.adopt(given(accepted.fileno(), b"before "))
            accepted.close()
            client.sendall(b"and after")
            received = b""
            while len(received) < len(b"before and after"):
                received += await asyncio.to_thread(client.recv, 100)
            assert received == b"before and after"
            client.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(client.recv, 100) == b""

    asyncio.run(talk())


def test_what_is_no_client_is_refused() -> None:
    """No file, no socket, no stream, a pair of sockets; one that has gone or listens is closed and no fault."""

    async def talk() -> None:
        adoption = Adoption(nowhere)
        adoption.begin(Echo)
        with ExitStack() as stack:
            reading, writing = os.pipe()
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            bad = [reading, writing, datagrams.fileno(), pair(stack)[0].fileno()]
            for file in bad:
                with pytest.raises(Malformed):
                    adoption.adopt(given(file))
            with pytest.raises(Malformed):
                adoption.adopt(Packet(Connection()))
            client, accepted = tcp(stack)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            for gone in (accepted, listener):
                adoption.adopt(given(gone.fileno()))
            os.close(reading)
            os.close(writing)
            await asyncio.sleep(0.01)

    asyncio.run(talk())


def test_what_comes_too_early_or_too_late_is_handed_back() -> None:
    """With its files; in between it is answered."""

    async def talk() -> None:
        back: list[Packet[Connection]] = []
        adoption = Adoption(back.append)
        with ExitStack() as stack:
            client, accepted = tcp(stack)
            early, late = given(accepted.fileno()), given(accepted.fileno())
            adoption.adopt(early)
            adoption.begin(Echo)
            adoption.adopt(given(accepted.fileno(), b"answered"))
            received = await asyncio.to_thread(client.recv, 100)
            adoption.end()
            adoption.adopt(late)
            accepted.close()
            assert (back, received) == ([early, late], b"answered")
            for packet in back:
                packet.close()
        await asyncio.sleep(0.01)

    asyncio.run(talk())
