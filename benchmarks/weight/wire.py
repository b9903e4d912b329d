"""Sends shots over plain sockets and tells what came of it; a server that answers early is heard early."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

from benchmarks.weight.requests import Shot

_READ_BYTES = 1024 * 1024
#: An answer after which nothing comes for so long is over, though the server did not close; it may stand still.
_QUIET_S = 6.0


@dataclass
class Answer:
    """What came of a shot.

    Attributes:
        status: of the first answer on the last connection; 0 where there was none.
        seconds: until the last answer was whole.
        open, silent: connections without an answer; `open` those that the server had not closed in the end.
    """

    status: int = 0
    seconds: float = 0.0
    sent: int = 0
    received: int = 0
    open: int = 0
    silent: int = 0


@dataclass
class _Connection:
    socket: socket.socket
    chunks: Iterator[bytes]
    behind: Iterator[bytes]
    pending: memoryview = field(default_factory=lambda: memoryview(b""))
    sent: int = 0
    begins: bytes = b""
    received: int = 0
    heard_at: float = 0.0
    sending: bool = True
    closed: bool = False

    @property
    def status(self) -> int:
        return int(self.begins[9:12]) if self.begins[9:12].isdigit() else 0

    def write(self) -> None:
        if not self.pending:
            chunk = next(self.chunks, None)
            if chunk is None:
                self.sending = False
                return
            self.pending = memoryview(chunk)
        try:
            count = self.socket.send(self.pending)
        except BlockingIOError:
            return
        except OSError:  # the server has closed; what it said before can still be read
            self.sending = False
            return
        self.sent += count
        self.pending = self.pending[count:]

    def read(self) -> None:
        try:
            got = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not self.received:
            self.chunks, self.sending = chain(self.chunks, self.behind), True
        if len(self.begins) < 12:
            self.begins += got[:12]
        self.received += len(got)
        self.heard_at = time.monotonic()
        self.closed = not got


def fire(port: int, shot: Shot, *, patience: float, hold: float) -> Answer:
    """Send it and wait for its answers, `patience` seconds at most; what expects none is held open for `hold`."""
    began = time.monotonic()
    until = began + patience
    connections: list[_Connection] = []
    with selectors.DefaultSelector() as ready:
        try:
            for _ in range(shot.connections):
                connection = _connect(port, shot)
                if connection is not None:
                    connections.append(connection)
                    ready.register(connection.socket, _interest(connection, shot), connection)
            _exchange(ready, shot, until, hold)
        finally:
            for connection in connections:
                connection.socket.close()
    last = max((connection.heard_at for connection in connections), default=0.0)
    return Answer(
        status=connections[-1].status if connections else 0,
        seconds=(last or time.monotonic()) - began,
        sent=sum(connection.sent for connection in connections),
        received=sum(connection.received for connection in connections),
        open=sum(not connection.closed and not connection.received for connection in connections),
        silent=sum(not connection.received for connection in connections),
    )


def _connect(port: int, shot: Shot) -> _Connection | None:
    with suppress(OSError):
        made = socket.create_connection(("127.0.0.1", port), timeout=5)
        made.setblocking(False)
        return _Connection(made, shot.wire.chunks(), shot.behind.chunks())
    return None


def _interest(connection: _Connection, shot: Shot) -> int:
    reads = selectors.EVENT_READ if shot.reads or not connection.sending else 0
    return reads | (selectors.EVENT_WRITE if connection.sending else 0)


def _exchange(ready: selectors.BaseSelector, shot: Shot, until: float, hold: float) -> None:
    while ready.get_map() and time.monotonic() < until:
        for key, events in ready.select(0.1):
            connection: _Connection = key.data
            if events & selectors.EVENT_READ:
                connection.read()
            if events & selectors.EVENT_WRITE:
                connection.write()
        sending = False
        for key in list(ready.get_map().values()):
            connection = key.data
            sending |= connection.sending and not connection.closed
            if _over(connection):
                ready.unregister(connection.socket)
            elif _interest(connection, shot) != key.events:
                ready.modify(connection.socket, _interest(connection, shot), connection)
        if not sending and not shot.expects:
            until = min(until, time.monotonic() + hold)


def _over(connection: _Connection) -> bool:
    quiet = connection.heard_at and time.monotonic() - connection.heard_at > _QUIET_S
    return connection.closed or bool(quiet and not connection.sending)
