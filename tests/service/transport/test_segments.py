"""Where a stream of requests is cut into segments decides nothing: neither the answers nor who answers."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.server import _MemoryTransport
from service.transport.connections import Connections
from service.transport.protocol import Protocol
from tests.helpers.plain_http import answers

_TURNS = 8  # of the event loop, after which what a segment begins has ended
SIDES = ("here", "there")


@dataclass
class Client:
    """A client in memory, and the process that has its connection."""

    written: bytearray = field(default_factory=bytearray)
    protocol: Protocol | None = None
    closed: bool = False

    @property
    def answers(self) -> list[str]:
        """The answers that came back, without interim ones."""
        return [f"{found.status} {found.body.decode()}" for found in answers(bytes(self.written))]


class Transport(_MemoryTransport):
    """One process' end of the connection."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self.protocol: asyncio.Protocol | None = None
        self._ended = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def fileno(self) -> int:
        return -1

    def getsockname(self) -> str:
        return ""

    getpeername = getsockname

    def write(self, data: Any) -> None:
        self._client.written += data

    def write_eof(self) -> None:
        self._client.closed = True

    def close(self) -> None:
        if not self._ended:
            self._ended = self._client.closed = True

    def abort(self) -> None:
        assert self.protocol is not None
        self._ended = True
        self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._ended


class Side:
    """A process of two: `there` answers each `POST` to a path that begins so, and `here` everything else."""

    def __init__(self, name: str) -> None:
        self.name, self.client = name, Client()
        self.connections = Connections()
        self.other = self
        protocol: Any = partial(Protocol, connections=self.connections, hand_over=self)
        self.config = uvicorn.Config(self.app, http=protocol, ws="none", interface="asgi3", log_config=None)
        self.config.load()

    def adopt(self, received: bytes) -> None:
        """Answer the connection from now on."""
        protocol: Any = self.config.http_protocol_class
        found = protocol(config=self.config, server_state=ServerState(), app_state={}, received=received)
        transport = Transport(self.client)
        transport.protocol = self.client.protocol = found
        found.connection_made(transport)

    def is_elsewhere(self, path: bytes) -> bool:
        """True where the other side answers."""
        return path.startswith(b"/there") != (self.name == "there")

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
        """Give it to the other side."""
        asyncio.get_running_loop().call_soon(self.other.adopt, received)
        return True

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Say who answers and what came; `/early` does not wait for the body, `/204` and `/304` answer without one."""
        body, more, last = b"", True, scope["path"].rpartition("/")[2]
        while more and last != "early":
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = told(self.name, scope["path"], scope["method"], body).encode()
        bare = scope["method"] == "HEAD" or last in ("204", "304")
        headers = [(b"content-length", b"%d" % len(answer))] if not bare else [(b"server", self.name.encode())]
        status = int(last) if last in ("204", "304") else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if bare else answer})


def told(name: str, path: str, method: str, body: bytes) -> str:
    """The answer of a side."""
    return f"{name}: {method} {path} {hashlib.sha256(body).hexdigest()[:8]}"


def said(path: str, body: bytes = b"", *, method: str = "POST") -> str:
    """The answer of the side whose request this is."""
    return told("there" if method == "POST" and path.startswith("/there") else "here", path, method, body)


def head(path: str, *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode()


def sized(path: str, body: bytes, *lines: str) -> bytes:
    """A request with a body of known length."""
    return head(path, *lines, f"Content-Length: {len(body)}") + body


def chunked(path: str, *chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    """A request with a body in chunks."""
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return head(path, "Transfer-Encoding: chunked") + body + b"0\r\n" + trailer + b"\r\n"


BODY = b"POST /here/in HTTP/1.1\r\n\r\n0\r\n\r\n"  # a body that looks like a head and like the end of chunks
EXCHANGES = {
    "bodies": [
        (sized("/here/1", b"abc"), "200 " + said("/here/1", b"abc")),
        (sized("/there/2", BODY), "200 " + said("/there/2", BODY)),
        (sized("/there/3", b""), "200 " + said("/there/3")),
        (head("/here/4", method="GET"), "200 " + said("/here/4", method="GET")),
    ],
    "chunks": [
        (chunked("/here/1", b"abc", BODY), "200 " + said("/here/1", b"abc" + BODY)),
        (head("/there/2", method="GET"), "200 " + said("/there/2", method="GET")),
        (chunked("/there/3", b"a", extension=b";a=b", trailer=b"T: t\r\n"), "200 " + said("/there/3", b"a")),
        (chunked("/here/4"), "200 " + said("/here/4")),
        (chunked("/there/5", BODY, trailer=b"Host: t\r\n"), "200 " + said("/there/5", BODY)),
    ],
    "blank lines": [
        (b"\r\n" + sized("/here/1", b"a") + b"\r\n", "200 " + said("/here/1", b"a")),
        (b"\r\n\r\n" + sized("/there/2", b"b") + b"\r\n", "200 " + said("/there/2", b"b")),
        (head("/here/3", method="GET") + b"\r\n\r\n", "200 " + said("/here/3", method="GET")),
        (sized("/there/4", b"d"), "200 " + said("/there/4", b"d")),
    ],
    "100-continue": [
        (sized("/there/1", b"abc", "Expect: 100-continue"), "200 " + said("/there/1", b"abc")),
        (sized("/here/2", b"def", "Expect: 100-continue"), "200 " + said("/here/2", b"def")),
        (sized("/there/3", b"", "Expect: 100-continue"), "200 " + said("/there/3")),
    ],
    "no body of the answer": [
        (head("/here/1", method="HEAD"), "200 "),
        (sized("/there/204", b"abc"), "204 "),
        (head("/here/304", method="GET"), "304 "),
        (head("/there/4", method="HEAD"), "200 "),
        (sized("/here/5", b"x"), "200 " + said("/here/5", b"x")),
    ],
    "answered before the body": [
        (sized("/here/early", BODY), "200 " + said("/here/early")),
        (sized("/there/early", BODY + b"a"), "200 " + said("/there/early")),
        (sized("/here/early", BODY), "200 " + said("/here/early")),
        (head("/there/4", method="GET"), "200 " + said("/there/4", method="GET")),
    ],
    "answered before the chunks": [
        (sized("/here/1", b"a"), "200 " + said("/here/1", b"a")),
        (chunked("/there/2", BODY, b"\r\n\r\n\n"), "200 " + said("/there/2", BODY + b"\r\n\r\n\n")),
        (chunked("/there/early", BODY, BODY, trailer=b"T: t\r\n"), "200 " + said("/there/early")),
    ],
    "upgrades": [
        (sized("/there/1", b"abc", "Upgrade: h2c", "Connection: upgrade"), "200 " + said("/there/1", b"abc")),
        (sized("/here/2", b"abc", "Upgrade: h2c", "Connection: upgrade"), "200 " + said("/here/2", b"abc")),
        (sized("/there/3", b""), "200 " + said("/there/3")),
    ],
    "the end": [
        (sized("/here/1", b"a"), "200 " + said("/here/1", b"a")),
        (sized("http://a/there/2", b"b", "Connection: close"), "200 " + said("/there/2", b"b")),
    ],
}


def cuts(stream: bytes) -> Iterator[list[int]]:
    """Where it is cut: each place alone, everywhere, evenly, and by chance."""
    size, chance = len(stream), random.Random(7)
    yield from ([at] for at in range(size))
    yield from (list(range(step, size, step)) for step in (1, 2, 3, 7, 40))
    yield from (sorted(chance.sample(range(1, size), 6)) for _ in range(20))


async def played(sides: Sequence[Side], requests: list[bytes], places: Iterable[int], *, ahead: bool) -> Client:
    """A client that sends the requests in these segments, each when the one before is answered, or all ahead."""
    client = Client()
    for side, other in zip(sides, reversed(sides), strict=True):
        side.client, side.other = client, other
    sides[0].adopt(b"")
    stream, sent = b"".join(requests), 0
    ends = [sum(map(len, requests[: number + 1])) for number in range(len(requests))]
    for place in [*places, len(stream)]:
        while sent < place and not client.closed:
            may = len(stream) if ahead else ends[min(len(client.answers), len(ends) - 1)]
            piece = stream[sent : min(place, may)]
            if not piece:
                break
            sent += len(piece)
            assert client.protocol is not None
            client.protocol.data_received(piece)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
    assert client.protocol is not None
    client.protocol.connection_lost(None)
    assert [side.connections.pending_head_bytes for side in sides] == [0, 0]
    return client


@pytest.mark.parametrize("exchanges", EXCHANGES.values(), ids=EXCHANGES)
def test_segments_decide_nothing(exchanges: list[tuple[bytes, str]]) -> None:
    """A client that waits for each answer gets all of them; one that sends ahead a part, in order, and then the end."""
    requests = [request for request, _ in exchanges]
    wanted = [answer for _, answer in exchanges]

    async def all_of_them() -> None:
        sides = [Side(name) for name in SIDES]
        for places in cuts(b"".join(requests)):
            assert (await played(sides, requests, places, ahead=False)).answers == wanted, places
            client = await played(sides, requests, places, ahead=True)
            assert client.answers == wanted[: len(client.answers)], places
            assert client.closed or client.answers == wanted, places

    asyncio.run(all_of_them())
