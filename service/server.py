"""Runs the API under uvicorn: those who wait on long polls are woken before the server waits for them."""

from __future__ import annotations

import logging
import socket
import sys
from types import FrameType

import uvicorn

from service.api.dependencies import Parts
from service.app import create_app
from service.settings import ServiceSettings

_LOG = logging.getLogger("fedlas.api")
_GRACE_S = 5


class Server(uvicorn.Server):
    """uvicorn, with long polls ended as soon as the signal comes."""

    def __init__(self, config: uvicorn.Config, parts: Parts) -> None:
        super().__init__(config)
        self._parts = parts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where to find the service, as soon as it can be found."""
        await super().startup(sockets)
        for server in self.servers if self.started else ():
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                _LOG.info("listening on http://%s:%d, documentation at /docs", host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handler."""
        self._parts.waiting.close()
        super().handle_exit(sig, frame)


def run(settings: ServiceSettings) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
    _LOG.setLevel(logging.INFO)
    if settings.listen_host != settings.host:
        _LOG.warning(
            "no keys are configured (FEDLAS_API_KEYS): listening on %s only, not on %s",
            settings.listen_host,
            settings.host,
        )
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.listen_host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    server = Server(config, app.state.parts)
    server.run()
    return 0 if server.started else 1
