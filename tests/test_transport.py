"""A real server over our connections: answers arrive whole, and who reads none of them is let go."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
import uvicorn

from service import transport
from service.api.serving.exchange import Answer, Request
from tests.helpers.processes import free_port, until

SIZE = 32 * 1024 * 1024
ENDED: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with 32 MB, or with as many bytes as the path says."""
    size = int(scope["path"][1:] or SIZE)
    request = Request.read(scope, receive)
    await request.answer(send, Answer(bytes(size), b"application/octet-stream"))
    ENDED.append(scope["path"])


@pytest.fixture
def port() -> Iterator[int]:
    """Of a running server."""
    ENDED.clear()
    number = free_port()
    config = uvicorn.Config(app, port=number, http=transport.Protocol, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    until(lambda: server.started, seconds=20, what="the server is up")
    yield number
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
    monkeypatch.setattr(transport, "PATIENCE_S", 0.5)
    with connection(port, "/") as silent:
        time.sleep(0.2)
        assert ENDED == []
        until(lambda: ENDED == ["/"], seconds=20, what="the request has ended")
        assert received(silent, SIZE) < SIZE


def test_who_reads_slowly_is_served(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that goes on reading gets all of it, however long that takes."""
    monkeypatch.setattr(transport, "PATIENCE_S", 0.3)
    count = 0
    with connection(port, "/") as slow:
        while count < SIZE:
            count += len(slow.recv(1 << 20))
            time.sleep(0.03)
    assert count >= SIZE
