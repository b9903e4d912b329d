"""A real server over our connections: answers arrive whole; who is too slow, or one too many, is let go."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from threading import Thread
from typing import Any

import pytest
import uvicorn

from service.predict.messages import Answer, Request
from service.transport import head_protocol
from service.transport import protocol as transport
from service.transport.connections import Connections
from tests.helpers.plain_http import ask, connected, one
from tests.helpers.plain_http import received as all_received
from tests.helpers.processes import free_port, until

SIZE = 32 * 1024 * 1024
ENDED: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with 32 MB, or with as many bytes as the path says."""
    request = Request.read(scope, receive)
    if scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        ENDED.append("/wait")
        return
    await request.answer(send, Answer(bytes(int(scope["path"][1:] or SIZE)), b"application/octet-stream"))
    ENDED.append(scope["path"])


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a running server."""
    with serving(Connections()) as number:
        yield number


@contextmanager
def serving(connections: Connections, *, keep_alive: int = 300) -> Iterator[int]:
    """The port of a server that counts its connections, kept for long: 5 s are too few on a busy machine."""
    ENDED.clear()
    number = free_port()
    protocol: Any = partial(transport.Protocol, connections=connections)
    config = uvicorn.Config(
        app, port=number, http=protocol, ws="none", log_config=None, lifespan="off", timeout_keep_alive=keep_alive
    )
    server = uvicorn.Server(config)
    thread = Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    until(lambda: server.started, what="the server is up")
    try:
        yield number
    finally:
        server.should_exit = True
        thread.join()


def connection(port: int, path: str) -> socket.socket:
    """A request that has been sent."""
    found = socket.create_connection(("127.0.0.1", port), timeout=30)
    found.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return found


def received(found: socket.socket, size: int) -> int:
    """How many bytes come, up to this many."""
    count = 0
    while count < size:
        try:
            piece = found.recv(1 << 20)
        except ConnectionResetError:
            break
        if not piece:
            break
        count += len(piece)
    return count


@pytest.mark.parametrize("size", [0, 10, 64 * 1024, 64 * 1024 + 1, SIZE])
def test_answers_arrive_whole(port: int, size: int) -> None:
    """Small ones in one piece, large ones with their reader's pace; the connection is kept for the next request."""
    with connection(port, f"/{size}") as found:
        for _ in range(2):
            head = b""
            while b"\r\n\r\n" not in head:
                head += found.recv(1)
            assert f"content-length: {size}\r\n".encode() in head
            assert received(found, size) == size
            found.sendall(f"GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())


def test_who_reads_nothing_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without reading the connection is closed, and the request has ended; before, it had not."""
    monkeypatch.setattr(transport, "WRITE_TIMEOUT_S", 2.0)
    with connection(port, "/") as silent:
        time.sleep(0.2)
        assert ENDED == []
        until(lambda: ENDED == ["/"], what="the request has ended")
        assert received(silent, SIZE) < SIZE


def test_who_reads_slowly_is_served(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that goes on reading gets all of it, however long that takes."""
    monkeypatch.setattr(transport, "WRITE_TIMEOUT_S", 0.3)
    count = 0
    with connection(port, "/") as slow:
        while count < SIZE:
            count += len(slow.recv(1 << 20))
            time.sleep(0.03)
    assert count >= SIZE


def test_a_head_must_be_whole_in_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that trickles is cut off, on a new connection and on one that was kept; a silent one is closed."""
    monkeypatch.setattr(head_protocol, "HEAD_S", 2.0)
    monkeypatch.setattr(transport, "SILENCE_S", 2.0)
    with connected(port) as silent, connected(port) as slow, connected(port) as kept, connected(port) as whole:
        kept.sendall(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one(kept).body == bytes(3)
        whole.sendall(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one(whole).body == bytes(3)
        for byte in b"GET /3":
            slow.sendall(bytes([byte]))
            kept.sendall(bytes([byte]))
            time.sleep(0.05)
        for late in (slow, kept):
            answer = one(late)
            assert (answer.told, answer.headers["connection"]) == ((408, "head_stalled"), "close")
            assert all_received(late) == b""
        assert all_received(silent) == b""
        whole.sendall(b"GET /4 HTTP/1.1\r\nHost: a\r\n\r\n")  # two seconds later: it was idle, not slow
        assert one(whole).body == bytes(4)


def test_idle_connections_are_closed() -> None:
    """Three seconds after its last answer, not its first; also one that still sends the body of what was answered."""
    with serving(Connections(), keep_alive=3) as port, connected(port) as kept, connected(port) as sending:
        sending.sendall(b"POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        assert one(sending).body == bytes(3)
        for _ in range(3):
            kept.sendall(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert one(kept).body == bytes(3)
            time.sleep(1.1)
            sending.send(b"a")
        assert all_received(kept) == b""
        assert all_received(sending) == b""


def test_a_late_head_waits_for_its_turn(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head behind a request that is being answered: first that answer, whole, then its own."""
    monkeypatch.setattr(head_protocol, "HEAD_S", 0.3)
    with connected(port) as found:
        found.sendall(f"GET /{SIZE} HTTP/1.1\r\nHost: a\r\n\r\nGET /".encode())
        time.sleep(0.6)
        assert one(found).body == bytes(SIZE)
        assert one(found).told == (408, "head_stalled")


def test_who_has_gone_is_noticed(port: int) -> None:
    """A client that closes, or ends its side and then closes, is noticed, also behind its next request."""
    for more in (b"", b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"):
        for ends in (False, True):
            ENDED.clear()
            with connected(port) as found:
                found.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + more)
                if ends:
                    found.shutdown(socket.SHUT_WR)
                time.sleep(0.2)
                assert ENDED == []
            until(lambda: ENDED == ["/wait"], what="it is noticed")


def test_connections_are_limited() -> None:
    """One too many is answered 503 in terms of what it asks, or without having asked; when one goes, one may come."""
    with serving(Connections(most=2)) as port, connected(port) as first:
        first.sendall(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one(first).status == 200
        with connected(port) as second:
            second.sendall(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert one(second).status == 200
            for path in (b"/3", b"/v2/models"):
                (answer,) = ask(port, b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nX-Request-Id: me\r\n\r\n")
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert (answer.headers["connection"], answer.headers["x-request-id"]) == ("close", "me")
                assert list(answer.json) == (["error"] if b"v2" in path else list(answer.json))
            (answer,) = ask(port, b"GET /")
            assert answer.told == (503, "too_many_connections")
            assert "2 connections" in answer.json["detail"]
            many = [connected(port) for _ in range(100)]  # 64 are listened to, the rest told at once
            told = [one(found).status for found in many]
            assert set(told) == {503}
            for found in many:
                found.close()
        until(lambda: ask(port, b"GET /3 HTTP/1.0\r\n\r\n")[0].status == 200, what="there is room again")


def test_connections_are_limited_by_address() -> None:
    """Connections are limited by IPv4 address, and by /64 of IPv6; this machine and proxies count in all alone."""
    limited = Connections(most=8, per_address=2, proxies=[ip_network("10.0.0.0/8")])
    assert [limited.admit("192.0.2.1") for _ in range(2)] == [None, None]
    assert "2 connections come from 192.0.2.1" in str(limited.admit("::ffff:192.0.2.1"))
    assert limited.admit("192.0.2.2") is None
    limited.release("192.0.2.1")
    assert limited.admit("192.0.2.1") is None
    assert [limited.admit("2001:db8::1"), limited.admit("2001:db8::2")] == [None, None]
    assert "from 2001:db8::/64" in str(limited.admit("2001:db8::ffff:1"))
    assert [limited.admit(address) for address in ("127.0.0.1", "127.0.0.1", "10.1.2.3")] == [None, None, None]
    assert "8 connections" in str(limited.admit("10.1.2.3"))
