"""The self-check of the HTTP protocol: `Protocol` builds on parts of uvicorn that uvicorn may change in any release.

A few requests go through it in memory when the process starts. Where the installed uvicorn and httptools answer them
in another way, the process ends with their versions in its message.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.transport.protocol import Protocol

#: Requests sent ahead; a body in chunks with a trailer that must not become a header; an upgrade that is ignored.
_REQUESTS = (
    b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n"
    b"POST /d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\nAuthorization: t\r\n\r\n"
    b"POST /e HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nz"
    b"GET /f HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"
)
_BODIES = (b"GET /a b=c  host", b"POST /d  xy host,transfer-encoding", b"POST /e  z host,content-length")
_SECONDS = 10.0


def check_server() -> None:
    """Raise RuntimeError where the installed uvicorn and httptools do not work with `Protocol`."""
    try:
        sent = asyncio.run(asyncio.wait_for(_sent(), _SECONDS))
        fault = None if _is_right(sent) else f"{sent[-2000:]!r}"
    except Exception as error:
        sent, fault = b"", repr(error)
    if fault is not None:
        installed = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "httptools"))
        raise RuntimeError(f"{installed} cannot be used: install the versions that pyproject.toml names ({fault})")


def _is_right(sent: bytes) -> bool:
    heads = [answer.partition(b"\r\n\r\n") for answer in sent.split(b"HTTP/1.1 ")[1:]]
    *answers, refusal = heads or [(b"", b"", b"")]
    statuses = [head[:3] for head, _, _ in answers]
    bodies = tuple(body for _, _, body in answers)
    return (statuses, bodies, refusal[0][:3]) == ([b"200"] * 3, _BODIES, b"400")


async def _sent() -> bytes:
    """What `Protocol` writes for these requests, until it closes the connection."""
    config = uvicorn.Config(_echo, http=Protocol, ws="none", log_config=None)
    config.load()
    transport = _MemoryTransport()
    protocol = Protocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(transport)
    protocol.data_received(_REQUESTS)
    await transport.closed.wait()
    protocol.connection_lost(None)
    return bytes(transport.written)


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    names = b",".join(name for name, _ in scope["headers"] if name not in (b"upgrade", b"connection"))
    text = b"%b %b %b %b %b" % (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body, names)
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


class _MemoryTransport(asyncio.Transport):
    """Keeps what is written; nothing is ever full."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.closed.set()

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0
