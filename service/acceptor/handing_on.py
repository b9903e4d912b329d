"""Connections on their way to the processes that answer them: each is given to one of its place, or waits for one.

What no process takes is answered here, read to its end, and then closed: a socket that is closed while something waits
in it to be read is reset, and the client may lose the answer with it.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from random import getrandbits

from service.ipc.channel import Channel, Full, Packet
from service.ipc.documents import Connection, Members, ToAcceptor, place_of_request
from service.transport.request_head import Refusal

#: The bytes of a head that matter here.
PEEKED_BYTES = 16 * 1024
_NO_HTTP = re.compile(rb"(?:\r?\n)*[^A-Za-z\r\n]")
_LINE = re.compile(rb"(?:\r?\n)*POST +(?:(?i:https?)://[^/ ?\r\n]*)?(/[^ ?\r\n]*)")
_PROTOCOL = b"/v2"
_LINGER_S = 2.0
_MAX_WAITING = 1000
_READ_BYTES = 64 * 1024
_READS = 16
#: How long a process that does not take its connections is waited for: it is being started again.
UNTAKEN_S = 30.0
_BUSY_DETAIL = "the process that answers this is being started again; come again in 1 s"
_BUSY = Refusal(503, "unavailable", _BUSY_DETAIL, {"Retry-After": "1"})


def is_whole(head: bytes) -> bool:
    """True where enough of the head is there to hand it on: of bytes that are no HTTP, one."""
    return b"\r\n\r\n" in head or b"\n\n" in head or len(head) >= PEEKED_BYTES or _NO_HTTP.match(head) is not None


def path_of(head: bytes) -> bytes:
    """The path of a head; empty where there is none, or where this is no `POST`.

    The process that answers reads all of it again, and more strictly.

    >>> path_of(b"POST /v1/jobs?limit=1 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    b'/v1/jobs'
    >>> path_of(b"POST HTTP://A/v1/models/m/predict HTTP/1.1\\r\\n\\r\\n")
    b'/v1/models/m/predict'
    """
    line = _LINE.match(head)
    return line[1] if line else b""


def written(path: bytes, refusal: Refusal) -> bytes:
    """The answer to a request of which no more than its path is known."""
    title = HTTPStatus(refusal.status).phrase
    fields = {"status": refusal.status, "detail": refusal.detail, "code": refusal.code}
    kind, error = "application/problem+json", {"type": f"/errors/{refusal.code}", "title": title, **fields}
    if path.startswith(_PROTOCOL):
        kind, error = "application/json", {"error": refusal.detail}
    body = json.dumps(error).encode()
    lines = [
        f"HTTP/1.1 {refusal.status} {title}",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        f"x-request-id: req_{getrandbits(96):024x}",
        *(f"{name}: {value}" for name, value in refusal.headers.items()),
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Lingering:
    """Answers connections for the last time."""

    def __init__(self) -> None:
        self._clients: deque[tuple[socket.socket, float]] = deque()

    def __len__(self) -> int:
        return len(self._clients)

    def answer(self, client: socket.socket, answer: bytes) -> None:
        with suppress(OSError):
            client.send(answer, socket.MSG_DONTWAIT)
            client.shutdown(socket.SHUT_WR)
            self._clients.append((client, time.monotonic() + _LINGER_S))
            if len(self._clients) > _MAX_WAITING:
                self._clients.popleft()[0].close()
            return
        client.close()

    def sweep(self, now: float) -> None:
        """Close those whose client has gone, or has had its time."""
        kept = deque((client, until) for client, until in self._clients if now < until and not _has_ended(client))
        for client in {client for client, _ in self._clients} - {client for client, _ in kept}:
            client.close()
        self._clients = kept


def _has_ended(client: socket.socket) -> bool:
    """Read what has come, and say whether that was all."""
    try:
        return any(not client.recv(_READ_BYTES, socket.MSG_DONTWAIT) for _ in range(_READS))
    except BlockingIOError:
        return False
    except OSError:
        return True


@dataclass(slots=True, eq=False)
class Client:
    """A connection with a whole head; `packet` is what another process has read of it."""

    socket: socket.socket
    address: str
    packet: Packet[ToAcceptor] = field(default_factory=lambda: Packet(Connection()))
    until: float = 0.0

    def peeked(self) -> bytes:
        """The head of the connection, as far as it matters; nothing is taken."""
        if self.packet.content:
            return self.packet.content
        with suppress(OSError):
            return self.socket.recv(PEEKED_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return b""

    @property
    def path(self) -> bytes:
        return path_of(self.peeked())


class HandingOn:
    """Knows the processes; those of one place take connections in turn.

    Args:
        lingering: answers those that no process takes.
        release: called with the address of each connection that does not wait any more.
    """

    def __init__(self, lingering: Lingering, release: Callable[[str], None]) -> None:
        self._lingering = lingering
        self._release = release
        self._peers: dict[str, Channel[ToAcceptor]] = {}
        self._members: Members[Channel[ToAcceptor]] = Members()
        self._waiting: dict[str, deque[Client]] = {}

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    def meet(self, name: str, channel: Channel[ToAcceptor]) -> None:
        """A process of this name takes connections from now on."""
        self.part(name)
        self._peers[name] = channel
        self._members.join(name, channel)

    def part(self, name: str) -> None:
        """Part from a process, which takes no connections any more."""
        if (channel := self._peers.pop(name, None)) is not None:
            self._members.leave(name, channel)
            channel.close()

    def hand_on(self, client: Client) -> None:
        """Give it to a process of its place, after those that wait for the same."""
        place = place_of_request(path_of(client.peeked()))
        waiting = self._waiting.setdefault(place, deque())
        if waiting or not self._was_given(client, place):
            client.until = client.until or time.monotonic() + UNTAKEN_S
            waiting.append(client)

    def hand_on_waiting(self, now: float) -> None:
        """Give those that wait to who takes them now, and answer those that have waited for too long."""
        for place, waiting in self._waiting.items():
            while waiting and (self._was_given(waiting[0], place) or self._was_refused(waiting[0], now)):
                waiting.popleft()

    def _was_given(self, client: Client, place: str) -> bool:
        # A process that is being started reads nothing yet: what waits there waits for that.
        for channel in sorted(self._members.in_turn(place), key=lambda channel: channel.unread > 0):
            with suppress(Full):
                if channel.has_room:
                    channel.pass_on(client.packet, [client.socket.fileno()])
                    client.socket.close()
                    self._let_go(client)
                    return True
        return False

    def _was_refused(self, client: Client, now: float) -> bool:
        if now < client.until:
            return False
        self._lingering.answer(client.socket, written(client.path, _BUSY))
        self._let_go(client)
        return True

    def _let_go(self, client: Client) -> None:
        client.packet.close()
        self._release(client.address)
