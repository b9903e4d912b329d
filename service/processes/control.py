"""The control process: FastAPI and the registry; connections come from the acceptor, predictions go to others."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import time
from functools import partial
from pathlib import Path

from sqlalchemy import make_url

from service.control.app import create_control
from service.control.peers import ServingPeers
from service.heartbeat import Heartbeat
from service.process_memory import MemoryRelease, limit
from service.registry.errors import Unavailable
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from service.rest_api import build_document
from service.server import Server, configured, prepare_process, say_listening, warn_without_keys
from service.transport.connections import Connections
from service.transport.protocol import Protocol

_LOG = logging.getLogger("fedlas.api")


def say_where(settings: ServiceSettings) -> None:
    database = make_url(settings.resolved_database_url).set(query={}).render_as_string(hide_password=True)
    files = settings.artifacts or settings.resolved_artifacts
    _LOG.info("data folder %s, database %s, stored files %s", settings.data_dir.absolute(), database, files)
    warn_without_keys(settings)


def await_database(settings: ServiceSettings) -> None:
    """Migrate the database as soon as it can be reached; a signal ends the wait."""
    registry = Registry.open(settings)
    while True:
        try:
            registry.migrate()
            break
        except Unavailable as error:
            _LOG.warning("waiting for the database: %s", str(error.__cause__ or error).partition("\n")[0])
            time.sleep(1.0)
    registry.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.processes.control")
    parser.add_argument("--channel", type=int, required=True, help="the channel of this process")
    parser.add_argument("--served", type=Path, required=True, help="the served folder")
    parser.add_argument("--counts", type=Path, required=True, help="the file of what serving processes have counted")
    parser.add_argument("--heartbeat", type=int, help="write a byte into this pipe while the process lives")
    return parser.parse_args()


def main() -> int:
    """`python -m service.processes.control`, started by `fedlas serve`, whose settings it shares.

    Serves until SIGINT or SIGTERM; returns the exit code.
    """
    options, settings = _options(), ServiceSettings()
    prepare_process(settings)
    say_where(settings)
    await_database(settings)
    limit(settings.resolved_api_memory_bytes)
    peers = ServingPeers(socket.socket(fileno=options.channel), options.counts)
    app = create_control(settings, peers, options.served)
    protocol = partial(Protocol, connections=Connections.of(settings), hand_over=peers)
    config = configured(app.front, settings, lifespan="on", protocol=protocol)

    async def meet() -> None:
        peers.start(server.protocol)
        say_listening(settings.listen_host, settings.port)

    def stop() -> None:
        app.services.long_poll.close()
        peers.leave()

    server = Server(
        config,
        background=[
            Heartbeat(options.heartbeat).run,
            MemoryRelease(lambda: None).run,
            partial(build_document, app.fastapi),
            meet,
        ],
        stopping=stop,
        closing=peers.adopt_no_more,
    )
    return server.run_until_stopped([])


if __name__ == "__main__":
    sys.exit(main())
