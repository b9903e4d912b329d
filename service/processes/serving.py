"""A serving process: it runs models and answers predictions, and holds no key, no password and no way out.

Connections and answers to its questions come over one inherited channel, served copies lie in a folder of its own, and
everything else is given up before a model is opened.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from starlette.types import Receive, Scope, Send

from service.api.plumbing import problems
from service.api.plumbing.access import AccessControl
from service.api.plumbing.access_log import AccessLog
from service.confinement import seccomp
from service.heartbeat import Heartbeat
from service.inference.metrics import ServingMetrics
from service.inference.runtime import providers, release_arena
from service.ipc.placement import Placement
from service.ipc.run_marks import RunMarks
from service.process_memory import MemoryRelease, limit
from service.processes import policies
from service.processes.ending import Ending
from service.registry.errors import NotFound, Unavailable
from service.server import Server, configured, prepare_process
from service.serving.app import ServingApp
from service.serving.control_channel import ControlChannel
from service.serving.routes import ROUTES
from service.serving.services import ServingServices
from service.settings import ServingSettings
from service.shared_counts import Snapshot
from service.tracing import Tracing
from service.transport.connections import Connections
from service.transport.protocol import Protocol

_LOG = logging.getLogger("fedlas.api")
_COUNTS_S = 1.0
#: To end this process costs others little.
_LONGEST_GRACE_S = 3.0


class ServedCopies:
    """The files in the folder of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def held(self, digest: str) -> Iterator[Path]:
        """The path of a file; raises NotFound."""
        path = self._folder / digest
        if not path.is_file():
            raise NotFound("artifact_missing", f"the stored file {digest[:12]}… is missing")
        yield path


def run(
    settings: ServingSettings,
    *,
    name: str,
    channel: int,
    folder: Path,
    names: frozenset[str],
    keyed: bool,
    run_marks: int | None = None,
    traced: bool = False,
    heartbeat: int | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Args:
        name: of this process among all.
        channel: this process' own, to control.
        folder: of its served copies.
        names: under which browsers reach the service.
        keyed: whether a key is needed.
        run_marks: memory in which the parent finds what ran when this process has ended.
        traced: whether control sends spans on.
        heartbeat: a pipe into which a byte is written twice a second while the event loop turns.
    """
    prepare_process(settings)
    if settings.api_memory_bytes is not None or "CUDAExecutionProvider" not in providers():
        limit(settings.resolved_api_memory_bytes)
    placement = Placement()
    control = ControlChannel(socket.socket(fileno=channel), name=name, placement=placement, provider=providers()[0])
    metrics = ServingMetrics(most_models=settings.metrics_models)
    ending = Ending(control.stuck)
    services = ServingServices.open(
        settings,
        access=AccessControl(names, keyed=keyed),
        admission=control.keys,
        look_up=control.meanings.look_up,
        files=ServedCopies(folder),
        metrics=metrics,
        tracing=Tracing.through(control.tell_spans) if traced else Tracing(),
        access_log=AccessLog(),
        on_stuck=ending,
        longest_grace=_LONGEST_GRACE_S,
        marks=RunMarks(run_marks),
    )
    app = ServingApp(_elsewhere, services, ROUTES)
    protocol = partial(Protocol, connections=Connections.of(settings), hand_over=control)
    config = configured(app, settings, lifespan="off", protocol=protocol)
    services.start()
    services.access_log.start()
    gc.collect()
    gc.freeze()

    async def meet() -> None:
        with suppress(OSError):  # without filters there is none, which was said at the start
            seccomp.install(policies.adopting(), every_thread=True)
        control.start(server.protocol, services.model_repository, lambda: _counted(metrics))

    def stopped() -> None:
        control.tell_counts()
        services.tracing.close()
        services.scheduler.shut_down()
        services.access_log.stop()

    server = Server(
        config,
        background=[
            Heartbeat(heartbeat, hung_seconds=settings.hung_seconds).run,
            MemoryRelease(release_arena).run,
            meet,
            partial(_tell_counts, control),
        ],
        stopping=control.leave,
        closing=control.adopt_no_more,
        stopped=stopped,
    )
    ending.server, ending.give_up = server, app.give_up
    server.run([])
    return 0 if server.started else 1


async def _elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to what another process should answer, and does not take."""
    error = Unavailable("unavailable", "the process that answers this is being started again; come again in 1 s")
    await problems.problem_of(scope["path"], error)(scope, receive, send)


def _counted(metrics: ServingMetrics) -> bytes:
    return Snapshot(metrics.own(), metrics.own_gauges()).encode()


async def _tell_counts(channel: ControlChannel) -> None:
    while True:
        await asyncio.sleep(_COUNTS_S)
        channel.tell_counts()


def main() -> int:
    """`python -m service.processes.serving`, started by `fedlas serve` with the settings of serving only."""
    parser = argparse.ArgumentParser(prog="python -m service.processes.serving")
    parser.add_argument("--name", required=True, help="of this process among all")
    parser.add_argument("--channel", type=int, required=True, help="the channel of this process")
    parser.add_argument("--folder", type=Path, required=True, help="of its served copies")
    parser.add_argument("--host-name", action="append", default=[], help="under which browsers reach the service")
    parser.add_argument("--keyed", action="store_true", help="a key is needed")
    parser.add_argument("--run-marks", type=int, help="the memory in which it marks what it runs")
    parser.add_argument("--traced", action="store_true", help="control sends spans on")
    parser.add_argument("--heartbeat", type=int, help="write a byte into this pipe while the process lives")
    options = parser.parse_args()
    return run(
        ServingSettings(),
        name=options.name,
        channel=options.channel,
        folder=options.folder,
        names=frozenset(options.host_name),
        keyed=options.keyed,
        run_marks=options.run_marks,
        traced=options.traced,
        heartbeat=options.heartbeat,
    )


if __name__ == "__main__":
    sys.exit(main())
