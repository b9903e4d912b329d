"""HTTP as bytes on a plain socket, for what no client sends; it knows no service."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_MAX_S = 60.0


@dataclass(frozen=True)
class Answer:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def told(self) -> tuple[int, str]:
        """Status and code of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.json["status"] == self.status, self
        return self.status, self.json["code"]


def connected(port: int) -> socket.socket:
    """A connection to a server on this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=_MAX_S)


def ask(port: int, *pieces: bytes, ends: bool = False) -> list[Answer]:
    """Send the pieces on a connection and (`ends`) close this side; returns all answers until the server closes."""
    with connected(port) as found:
        with suppress(ConnectionError):  # it may be refused before all of it is sent
            for piece in pieces:
                found.sendall(piece)
            if ends:
                found.shutdown(socket.SHUT_WR)
        return answers(received(found))


def received(found: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    with suppress(ConnectionError):
        while part := found.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def one(found: socket.socket) -> Answer:
    """The next answer of a connection that is kept."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = found.recv(1)
        assert part, head
        head += part
    return answers(head + _exactly(found, _length(head)))[0]


def answers(data: bytes) -> list[Answer]:
    """The answers in these bytes; interim ones (1xx) are passed over."""
    listed = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        status = int(head.split(b" ", 2)[1])
        if status >= 200:
            lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[1:]]
            length = _length(head)
            listed.append(Answer(status, {name.lower(): value for name, _, value in lines}, data[:length]))
            data = data[length:]
    return listed


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _exactly(found: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = found.recv(size - len(data))
        assert part, data
        data += part
    return data
