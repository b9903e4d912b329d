"""The API process: uvicorn with a graceful shutdown, in which every request that was begun is answered.

On the first signal no connection is accepted any more, and long polls and streams end. Connections that are kept open
have a second for a request that may be on its way; then requests in progress, an upload for instance, may finish within
the grace period. A second signal ends everything at once.

`Protocol` builds on parts of uvicorn that may change in any release. A few requests go through it in memory when the
process starts: where the installed uvicorn and httptools answer them in another way, it ends with their versions in its
message.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from types import FrameType
from typing import Any, Literal

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from service.registry.settings import ServiceSettings, ServingSettings
from service.transport.connections import allow_many_connections
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
_LOG = logging.getLogger("fedlas.api")
#: How long an idle connection is kept after the signal: a request that comes by then is answered with
#: `Connection: close`, where a closed connection would have answered it with a reset.
_LAST_CALL_S = 1.0
_LAST_TURN_S = 0.02
#: Longer than clients and load balancers keep an idle connection (httpx 5 s, AWS 60 s): if we closed first, then
#: sometimes just as the next request is on its way.
_KEEP_ALIVE_S = 75
#: The addresses of the whole service, as the log names them.
PAGES = "pages at /, documentation of the API at /docs"
#: `EX_SOFTWARE` of sysexits.h.
STUCK_EXIT_CODE = 70


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
    bodies = tuple(body for _, _, body in answers)
    return ([head[:3] for head, _, _ in answers], bodies, refusal[0][:3]) == ([b"200"] * 3, _BODIES, b"400")


async def _sent() -> bytes:
    """Bytes that `Protocol` writes for these requests, until it closes the connection."""
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
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
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


class Server(uvicorn.Server):
    """uvicorn's server with a graceful shutdown and background tasks.

    Args:
        background: what runs beside requests, once the server has started, and is cancelled at its end. The server ends
            where one of them fails, since it would go on without what that did.
        stopping: called when a signal has come, or the server ends by itself.
        closing: called when no further connection is answered.
        stopped: called at the end. What stands behind `run` is not reached: uvicorn raises the signal again.
        answers: what stands where, for the log.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        background: Sequence[Callable[[], Coroutine[None, None, object]]],
        stopping: Callable[[], None] = lambda: None,
        closing: Callable[[], None] = lambda: None,
        stopped: Callable[[], None] = lambda: None,
        answers: str = PAGES,
    ) -> None:
        super().__init__(config)
        self._to_start = background
        self._stopping = stopping
        self._closing = closing
        self._stopped = stopped
        self._answers = answers
        self._background: list[asyncio.Task[object]] = []

    def run_until_stopped(self, sockets: list[socket.socket] | None) -> int:
        """Serve until SIGINT or SIGTERM; returns the exit code."""
        # Objects of the start stay: each full collection would traverse them, for a tenth of a second each time.
        gc.collect()
        gc.freeze()
        self.run(sockets)
        return 0 if self.started else 1

    def protocol(self, received: bytes = b"") -> Protocol:
        """The protocol of a connection that another process has accepted, of which this much was read."""
        made: Protocol = self.config.http_protocol_class(  # type: ignore[call-arg, assignment]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, received=received
        )
        return made

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._background = [asyncio.create_task(work()) for work in self._to_start]
        for task in self._background:
            task.add_done_callback(self._ended)
        for server in self.servers if self.started else ():
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                say_listening(host, port, self._answers)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handler."""
        if self.should_exit:
            self.force_exit = True
        self._stopping()
        super().handle_exit(sig, frame)

    async def depart(self, *, seconds: float) -> None:
        """Hand every connection over as soon as its request is answered; no longer than this."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.server_state.connections and loop.time() < until:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.depart()
            await asyncio.sleep(0.01)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, give idle connections a last moment, then shut down as uvicorn does."""
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        last_call = loop.time() + _LAST_CALL_S
        await asyncio.sleep(_LAST_TURN_S)  # connections that are being taken just now
        while self.server_state.connections and loop.time() < last_call and not self.force_exit:
            await asyncio.sleep(_LAST_TURN_S)
        self._closing()
        await super().shutdown(sockets)
        for task in self._background:
            task.cancel()
        await asyncio.wait(self._background)
        self._stopped()

    def _ended(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.critical("a background task has failed: this process ends", exc_info=error)
            if not self.should_exit:
                self._stopping()
            self.should_exit = True


def say_listening(host: str, port: int, answers: str = PAGES) -> None:
    _LOG.info("listening on http://%s:%d: %s", host, port, answers)


def warn_without_keys(settings: ServiceSettings) -> None:
    if not settings.api_keys:
        _LOG.warning(
            "no keys are configured (FEDLAS_API_KEYS): whoever works on this machine may use the service; "
            "it listens on %s only%s",
            settings.listen_host,
            "" if settings.listen_host == settings.host else f", and not on {settings.host} as it was told",
        )


def configured(
    app: ASGIApp, settings: ServingSettings, *, lifespan: Literal["on", "off"], protocol: Callable[..., Protocol]
) -> uvicorn.Config:
    """uvicorn as every process of the service has it."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.shutdown_seconds),
        server_header=False,
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        interface="asgi3",
        lifespan=lifespan,
        proxy_headers=False,  # nothing here depends on the client's address or scheme
    )


def prepare_process(settings: ServingSettings) -> None:
    """Log as all processes do, try the installed server, and take the limits of a process of the service."""
    logging.basicConfig(level=logging.WARNING, format=settings.log_format, stream=sys.stdout)
    _LOG.setLevel(logging.INFO)
    check_server()
    allow_many_connections()
