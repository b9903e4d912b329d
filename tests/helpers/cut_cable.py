"""A cable that is cut: a TCP proxy that breaks connections where a test says; it knows no service."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_REQUEST = re.compile(rb"\A([A-Z]+ \S+) HTTP/1\.1\r\n")
#: Closing then sends a reset: what is on its way is lost.
_RESET = struct.pack("ii", 1, 0)
#: The kernel would hold up to 4 MB for a server that reads slowly, and a reset loses them.
_ON_ITS_WAY_BYTES = 65_536


@dataclass
class Cut:
    """Where a connection breaks: so many bytes into a request or its answer, so often; `then` is called in between."""

    request: str
    sent: int | None = None
    received: int | None = None
    times: int = 1
    then: Callable[[], None] = lambda: None

    def is_here(self, request: str, sent: int, received: int) -> bool:
        """True for this request, once it is so far along."""
        if self.times == 0 or re.match(self.request, request) is None:
            return False
        far = self.sent is not None and sent >= self.sent
        return far or (self.received is not None and received > self.received)


@dataclass
class Cable:
    """Forwards to a port of this machine; knows the cuts to come, the heads of requests, and the bytes sent."""

    port: int
    cuts: list[Cut] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    done: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, request: str, **where: Any) -> None:
        """Cut a request that begins like this pattern."""
        self.cuts.append(Cut(request, **where))

    def keys(self, request: str) -> list[str]:
        """The `Idempotency-Key` of each request that begins like this."""
        heads = [head for head in self.requests if re.match(request, head)]
        return [found.group(1) for head in heads if (found := re.search(r"(?i)\r\nidempotency-key: (\S+)", head))]

    def close(self) -> None:
        """Take no connection any more."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ON_ITS_WAY_BYTES)
                connection = _Connection(self, client, server)
                for target in (connection.forward, connection.backward):
                    threading.Thread(target=target, daemon=True).start()

    def note(self, block: bytes) -> str | None:
        """Count what was sent; the request that begins with it."""
        with self._lock:
            self.sent += len(block)
            found = _REQUEST.match(block)
            if found is None:
                return None
            self.requests.append(block.partition(b"\r\n\r\n")[0].decode("latin-1"))
            return found.group(1).decode()

    def cut_here(self, request: str, *, sent: int = 0, received: int = 0) -> Cut | None:
        """Where the connection breaks now, if it does; each direction asks for itself, so that a cut is made once."""
        with self._lock:
            for cut in self.cuts:
                if cut.is_here(request, sent, received):
                    cut.times -= 1
                    self.done += 1
                    return cut
        return None


class _Connection:
    def __init__(self, cable: Cable, client: socket.socket, server: socket.socket) -> None:
        self._cable, self._client, self._server = cable, client, server
        self._request, self._sent, self._received = "", 0, 0
        self._breaking = threading.Lock()

    def forward(self) -> None:
        cut = None
        with suppress(OSError):
            while cut is None and (block := self._client.recv(16384)):
                if (request := self._cable.note(block)) is not None:
                    self._request, self._sent, self._received = request, 0, 0
                self._sent += len(block)
                self._server.sendall(block)
                cut = self._cable.cut_here(self._request, sent=self._sent)
        self._break(cut)

    def backward(self) -> None:
        cut = None
        with suppress(OSError):
            while cut is None and (block := self._server.recv(4096)):
                self._received += len(block)
                cut = self._cable.cut_here(self._request, received=self._received)
                kept = len(block) if cut is None else len(block) - self._received + (cut.received or 0)
                self._client.sendall(block[: max(0, kept)])
        self._break(cut, whole=True)

    def _break(self, cut: Cut | None, *, whole: bool = False) -> None:
        """End both; the other direction, which this wakes, finds it done."""
        with self._breaking:
            _end(self._server, whole=whole)
            try:
                if cut is not None:
                    cut.then()
            finally:
                _end(self._client, whole=whole)


def _end(connection: socket.socket, *, whole: bool) -> None:
    with suppress(OSError):
        if not whole:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def cable_to(port: int) -> Iterator[Cable]:
    """A cable for the block."""
    cable = Cable(port)
    try:
        yield cable
    finally:
        cable.close()
