"""Connections whose next request another process answers: no byte is lost and no request is answered twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from threading import Thread
from typing import Any

import pytest
import uvicorn
from pydantic import TypeAdapter

from service.ipc.channel import Channel, Full, pair
from service.ipc.documents import Connection
from service.ipc.reader import Adoption, Reader
from service.transport.connections import Connections
from service.transport.protocol import Protocol
from tests.helpers.plain_http import Answer, ask, connected, one
from tests.helpers.plain_http import received as all_received
from tests.helpers.processes import free_port, until

MIB = 1024**2
BIG = 32 * MIB  # more than the kernel takes
READ: TypeAdapter[Connection] = TypeAdapter(Connection)
BODY = bytes(range(256)) * (2 * MIB // 256)


class Side:
    """A process of two: it answers paths that begin with its name, and hands everything else to the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mine, self.others_end = pair()
        self.connections = Connections(most=1000)
        self.takes = True
        self.out: Channel[Connection] | None = None
        protocol: Any = partial(Protocol, connections=self.connections, hand_over=self)
        self.config = uvicorn.Config(
            self.app, port=free_port(), http=protocol, ws="none", interface="asgi3", log_config=None, lifespan="off"
        )
        self.server = uvicorn.Server(self.config)

    def towards(self, other: Side) -> None:
        """Hand over to this one."""
        self.out = Channel(other.others_end, READ)

    def adopt(self) -> None:
        """Answer what the other hands over, on the running loop."""
        protocol: Any = self.config.http_protocol_class

        def made(received: bytes) -> asyncio.Protocol:
            found: asyncio.Protocol = protocol(
                config=self.config, server_state=self.server.server_state, app_state={}, received=received
            )
            return found

        adoption = Adoption(lambda packet: None)
        adoption.begin(made)
        Reader(Channel(self.mine, READ), adoption.adopt, name="the other").start()
        self.loop = asyncio.get_running_loop()

    def depart(self) -> None:
        """Hand over what it has between two requests."""

        def all_of_them() -> None:
            for connection in list(self.server.server_state.connections):
                assert isinstance(connection, Protocol)
                connection.depart()

        self.loop.call_soon_threadsafe(all_of_them)

    def is_elsewhere(self, path: bytes) -> bool:
        """True where the path names another side."""
        return not path.startswith(f"/{self.name}".encode())

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
        """Send it there."""
        assert self.out is not None
        try:
            if self.takes:
                self.out.send(Connection(), received, [descriptor])
        except Full:
            return False
        return self.takes

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer who this is and what came, in one message of as much as the query says."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        said = f"{self.name} {scope['method']} {scope['path']} {hashlib.sha256(body).hexdigest()}"
        padding = b" " * int(scope["query_string"] or 0)
        answer = said.encode() + padding
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Side, Side]]:
    """Both, on one event loop."""
    here, there = Side("here"), Side("there")
    here.towards(there)
    there.towards(here)

    async def run() -> None:
        for side in (here, there):
            side.config.load()
            side.adopt()
        await asyncio.gather(here.server.serve(), there.server.serve())

    thread = Thread(target=lambda: asyncio.run(run()))
    thread.start()
    until(lambda: here.server.started and there.server.started, what="both are up")
    yield here, there
    here.server.should_exit = there.server.should_exit = True
    thread.join()
    for side in (here, there):
        side.mine.close()
        side.others_end.close()


@pytest.fixture
def port(sides: tuple[Side, Side]) -> Iterator[int]:
    """The port of `here`; every connection is uncounted where it was left, and no part of a head stays behind."""
    yield sides[0].config.port
    for side in sides:
        until(lambda side=side: side.connections._count == 0, what="all are uncounted")  # type: ignore[misc]
        assert side.connections.pending_head_bytes == 0


def request(path: str, body: bytes = b"", *, more: str = "") -> bytes:
    """A request with a body."""
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def said(path: str, body: bytes = b"", *, method: str = "POST") -> bytes:
    """The answer of the side of this path."""
    name = path.split("/")[1].partition("?")[0]
    return f"{name} {method} {path.partition('?')[0]} {hashlib.sha256(body).hexdigest()}".encode()


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([request("/there/c", BODY)], said("/there/c", BODY)),
        ([request("/there/d", BODY)[: MIB + 7], request("/there/d", BODY)[MIB + 7 :]], said("/there/d", BODY)),
        ([request("/there/h", more=f"X: {'a' * 60_000}\r\n")], said("/there/h")),
        ([b"POST /there/j HTTP/1.0\r\nContent-Length: 0\r\n\r\n"], said("/there/j")),
    ],
    ids=["large", "halves", "long-head", "http-1.0"],
)
def test_a_first_request_for_elsewhere(port: int, pieces: list[bytes], answer: bytes) -> None:
    """The other side answers a request of which some bytes were read, and reads exactly what the client sent."""
    with connected(port) as client:
        for piece in pieces:
            client.sendall(piece)
        assert one(client).body == answer


def test_a_kept_connection_goes_to_and_fro(port: int) -> None:
    """Each of its requests is answered where it belongs, in both directions, with bodies small and large."""
    with connected(port) as client:
        for number, size in enumerate([0, 10, 300_000, 0, 70_000, 1, 2 * MIB, 5]):
            path = f"/{('here', 'there')[number // 2 % 2 ^ number % 2]}/{number}"
            client.sendall(request(path, BODY[:size]))
            found = one(client)
            assert (found.status, found.body) == (200, said(path, BODY[:size]))
            assert "connection" not in found.headers


def test_expect_100_continue(port: int) -> None:
    """The side that reads the body lets the client go on, once."""
    with connected(port) as client:
        head, _, body = request("/there/a", b"x" * 1000, more="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert one(client).body == said("/there/a", body)


@pytest.mark.parametrize(
    ("paths", "answered"),
    [
        (["/here/1", "/here/2", "/there/3", "/there/4"], 2),
        (["/there/1", "/there/2", "/here/3"], 2),
        (["/there/1", "/there/2", "/there/3"], 3),
    ],
)
def test_requests_that_were_sent_ahead(port: int, paths: list[str], answered: int) -> None:
    """Requests before the first that belongs elsewhere are answered in order; then the connection says that it ends."""
    closing = answered < len(paths)
    with connected(port) as client:
        client.sendall(b"".join(request(path, path.encode()) for path in paths))
        found = [one(client) for _ in range(answered)]
        assert [answer.body for answer in found] == [said(path, path.encode()) for path in paths[:answered]]
        assert found[-1].headers.get("connection", "") == ("close" if closing else "")
        if closing:
            assert all_received(client) == b""


def test_a_process_that_ends_hands_its_connections_over(port: int, sides: tuple[Side, Side]) -> None:
    """Idle connections go at once, with a head that has begun or without; one with a request after its answer."""
    here = sides[0]
    with connected(port) as idle, connected(port) as begun, connected(port) as busy:
        for client in (idle, begun):
            client.sendall(request("/here/1"))
            assert one(client).body == said("/here/1")
        last, rest = request("/there/2")[:20], request("/there/2")[20:]
        begun.sendall(last)
        busy.sendall(request("/here/3", BODY)[:MIB])
        until(lambda: here.connections.pending_head_bytes == len(last), what="all has come")

        def are(number: int) -> bool:
            here.depart()
            return here.connections._count == number

        until(lambda: are(1), what="two have gone")
        busy.sendall(request("/here/3", BODY)[MIB:])
        assert one(busy).body == said("/here/3", BODY)
        until(lambda: are(0), what="the last one has gone")
        begun.sendall(rest)
        for client in (idle, busy):
            client.sendall(request("/there/2"))
        assert [one(client).body for client in (idle, begun, busy)] == [said("/there/2")] * 3


def test_an_answer_that_is_still_being_read_is_not_lost(port: int) -> None:
    """A request for elsewhere that comes while the answer before it is under way does not cut that short."""
    path = f"/here/big?{BIG}"
    with connected(port) as client:
        client.sendall(request(path))
        head = client.recv(10)
        client.sendall(request("/there/next"))
        raw = head + all_received(client)
    body = raw.partition(b"\r\n\r\n")[2]
    size = len(said(path)) + BIG
    assert body.startswith(said(path))
    assert len(body) >= size
    assert not body[size:] or body.endswith(said("/there/next"))  # the answer was through before the request came


def test_what_is_not_taken_is_answered_here(port: int, sides: tuple[Side, Side]) -> None:
    """Where the other side takes no connection this one answers, and goes on with the next request."""
    sides[0].takes = False
    try:
        with connected(port) as client:
            client.sendall(request("/there/a", BODY))
            assert one(client).body.startswith(b"here POST /there/a")
            sides[0].takes = True
            client.sendall(request("/there/b"))
            assert one(client).body == said("/there/b")
    finally:
        sides[0].takes = True


def test_what_is_no_request_is_refused_where_it_came(port: int) -> None:
    """A head that two readers could read differently is not handed on."""
    refused: list[Answer] = ask(port, b"POST /there/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert [answer.told for answer in refused] == [(400, "malformed_request")]
