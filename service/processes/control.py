"""The control process: FastAPI and the registry; connections come from the acceptor, predictions go to others."""

from __future__ import annotations

import argparse
import gc
import socket
import sys
from functools import partial
from pathlib import Path

from service.api.plumbing.services import quarantine
from service.control.app import create_control
from service.control.isolation import Isolation
from service.control.peer_models import PeerModels
from service.control.peers import ServingPeers
from service.heartbeat import Heartbeat
from service.ipc.placement import Placement
from service.process_memory import MemoryRelease, limit
from service.processes.registry import await_database, say_where
from service.rest_api import build_document
from service.server import Server, configured, prepare_process, say_listening
from service.settings import ServiceSettings
from service.transport.connections import Connections
from service.transport.protocol import Protocol


def run(settings: ServiceSettings, *, channel: int, folder: Path, counts: Path, heartbeat: int | None = None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Args:
        channel: this process' own.
        folder: where each serving process has a folder with its served copies.
        counts: the file of what they have counted.
        heartbeat: a pipe into which a byte is written twice a second while the event loop turns.
    """
    prepare_process(settings)
    say_where(settings)
    await_database(settings)
    limit(settings.resolved_api_memory_bytes)
    run_dir = settings.data_dir.absolute() / "run"  # of all services on these records and this machine
    isolation = Isolation(run_dir / "ended", quarantine(settings), most=settings.isolated_models)
    peers = ServingPeers(socket.socket(fileno=channel), folder, counts, Placement(), isolation)
    models = PeerModels(peers)
    app = create_control(settings, peers, models)
    protocol = partial(Protocol, connections=Connections.of(settings), hand_over=peers)
    config = configured(app.front, settings, lifespan="on", protocol=protocol)
    gc.collect()
    gc.freeze()
    beating = Heartbeat(heartbeat, hung_seconds=settings.hung_seconds)

    async def meet() -> None:
        peers.start(server.protocol)
        say_listening(settings.listen_host, settings.port)

    def stop() -> None:
        app.services.long_poll.close()
        peers.leave()

    server = Server(
        config,
        background=[
            beating.run,
            MemoryRelease(lambda: None).run,
            partial(build_document, app.fastapi),
            meet,
            peers.tend,
            models.tend,
        ],
        stopping=stop,
        closing=peers.adopt_no_more,
    )
    server.run([])
    return 0 if server.started else 1


def main() -> int:
    """`python -m service.processes.control`, started by `fedlas serve`, whose settings it shares."""
    parser = argparse.ArgumentParser(prog="python -m service.processes.control")
    parser.add_argument("--channel", type=int, required=True, help="the channel of this process")
    parser.add_argument("--folder", type=Path, required=True, help="of the served copies of all processes")
    parser.add_argument("--counts", type=Path, required=True, help="the file of what serving processes have counted")
    parser.add_argument("--heartbeat", type=int, help="write a byte into this pipe while the process lives")
    options = parser.parse_args()
    return run(
        ServiceSettings(),
        channel=options.channel,
        folder=options.folder,
        counts=options.counts,
        heartbeat=options.heartbeat,
    )


if __name__ == "__main__":
    sys.exit(main())
