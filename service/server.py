"""The API process: uvicorn with a graceful shutdown, in which every request that was begun is answered.

On the first signal no connection is accepted any more, and long polls and streams end. Connections that are kept open
have a second for a request that may be on its way; then requests in progress, an upload for instance, may finish within
the grace period. A second signal ends everything at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

import uvicorn
from sqlalchemy import make_url

from service.api.services import Services, quarantine
from service.app import create_app
from service.heartbeat import Heartbeat
from service.inference.runtime import providers, release_arena
from service.process_memory import MemoryRelease, limit
from service.registry.errors import Unavailable
from service.registry.registry import Registry
from service.settings import ServiceSettings
from service.transport.connections import Connections
from service.transport.protocol import Protocol
from service.transport.self_check import check_server

_LOG = logging.getLogger("fedlas.api")
#: How long an idle connection is kept after the signal: a request that comes by then is answered with
#: `Connection: close`, where a closed connection would have answered it with a reset.
_LAST_CALL_S = 1.0
#: Longer than clients and load balancers keep an idle connection (httpx 5 s, AWS 60 s): if we closed first, then
#: sometimes just as the next request is on its way.
_KEEP_ALIVE_S = 75
_MOST_FILES = 65_536
#: `EX_SOFTWARE` of sysexits.h.
_STUCK_EXIT_CODE = 70


class Server(uvicorn.Server):
    """uvicorn's server with a graceful shutdown and background tasks."""

    def __init__(
        self, config: uvicorn.Config, services: Services, *, heartbeat: Heartbeat, document: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._document = document
        self._services = services
        self._heartbeat = heartbeat
        self._background: list[asyncio.Task[object]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening and the background tasks, and log the address."""
        await super().startup(sockets)
        self._background = [
            asyncio.create_task(self._heartbeat.run()),
            asyncio.create_task(MemoryRelease(release_arena).run()),
            # Built for its first reader, the document would block the event loop for a quarter of a second.
            asyncio.create_task(asyncio.to_thread(self._document)),
        ]
        for server in self.servers if self.started else ():
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                _LOG.info("listening on http://%s:%d: pages at /, documentation of the API at /docs", host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handler."""
        if self.should_exit:
            self.force_exit = True
        self._services.long_poll.close()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, give idle connections a last moment, then shut down as uvicorn does."""
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        last_call = loop.time() + _LAST_CALL_S
        while self.server_state.connections and loop.time() < last_call and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        for task in self._background:
            task.cancel()
        await asyncio.wait(self._background)


def run(
    settings: ServiceSettings,
    *,
    sockets: Sequence[socket.socket] = (),
    grace_seconds: float = 30.0,
    heartbeat: int | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Args:
        sockets: listen on these instead of `settings.listen_host` and `settings.port`. While another process keeps such
            a socket open, connections wait in its queue until the next API process starts.
        grace_seconds: how long requests in progress may take after the signal.
        heartbeat: a pipe into which a byte is written twice a second while the event loop turns.
    """
    logging.basicConfig(level=logging.WARNING, format=settings.log_format, stream=sys.stdout)
    _LOG.setLevel(logging.INFO)
    _say_where(settings)
    check_server()
    _allow_many_connections()
    _await_database(settings)
    # CUDA reserves address space of its own, which was never tried under a limit: there the limit must be set.
    if settings.api_memory_bytes is not None or "CUDAExecutionProvider" not in providers():
        limit(settings.resolved_api_memory_bytes)
    app = create_app(settings, on_stuck=partial(_end, settings))
    config = uvicorn.Config(
        app,
        host=settings.listen_host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(grace_seconds),
        server_header=False,
        http=partial(Protocol, connections=Connections.of(settings)),  # type: ignore[arg-type]
        ws="none",
        proxy_headers=False,  # nothing here depends on the client's address or scheme
    )
    # These objects stay: each full collection would traverse them, for a tenth of a second each time.
    gc.collect()
    gc.freeze()
    beating = Heartbeat(heartbeat, hung_seconds=settings.hung_seconds)
    server = Server(config, app.services, heartbeat=beating, document=app.fastapi.openapi)
    server.run(list(sockets) or None)
    return 0 if server.started else 1


def _say_where(settings: ServiceSettings) -> None:
    """Log where everything lies that must survive, and who may connect."""
    database = make_url(settings.resolved_database_url).set(query={}).render_as_string(hide_password=True)
    files = settings.artifacts or settings.resolved_artifacts
    _LOG.info("data folder %s, database %s, stored files %s", settings.data_dir.absolute(), database, files)
    if not settings.api_keys:
        asked = "" if settings.listen_host == settings.host else f", and not on {settings.host} as it was told"
        _LOG.warning(
            "no keys are configured (FEDLAS_API_KEYS): whoever works on this machine may use the service; "
            "it listens on %s only%s",
            settings.listen_host,
            asked,
        )


def _end(settings: ServiceSettings, digest: str) -> None:
    """End the process, because its run of this served copy does not end, and suspend the copy for a while."""
    _LOG.critical("a run of the served copy %s does not end: the process ends, and the model is suspended", digest)
    quarantine(settings).add(digest)
    os._exit(_STUCK_EXIT_CODE)


def _allow_many_connections() -> None:
    """Raise the limit of open files: every connection is one, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _await_database(settings: ServiceSettings) -> None:
    """Migrate the database as soon as it can be reached; a signal ends the wait."""
    registry = Registry.open(settings)
    while True:
        try:
            registry.migrate()
            break
        except Unavailable as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            _LOG.warning("waiting for the database: %s", reason)
            time.sleep(1.0)
    registry.close()
