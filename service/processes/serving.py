"""A serving process: it runs models and answers predictions, and holds no key, no password and no way out.

Connections come over one inherited channel, what answers lies in the served folder, and everything else is given up
before a model is opened.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from starlette.types import Receive, Scope, Send

from service.confinement import seccomp
from service.heartbeat import Heartbeat
from service.http import problems
from service.http.access import AccessControl
from service.http.access_log import AccessLog
from service.ipc.run_marks import RunMarks
from service.predict.app import ROUTES, ServingApp, restarting
from service.predict.call import ServingServices, scheduler_of
from service.predict.control_channel import ControlChannel
from service.predict.engine.metrics import ServingMetrics
from service.predict.engine.session import providers, release_arena
from service.predict.repository import Lookup, ModelRepository
from service.predict.served_folder import ServedFolder
from service.process_memory import MemoryRelease, limit
from service.processes import confined
from service.registry.settings import ServingSettings
from service.repeated import repeat
from service.served.folder import KEYS
from service.served.keys import ADMINISTRATORS, Fingerprints, Keys
from service.server import STUCK_EXIT_CODE, Server, configured, prepare_process
from service.serving_counts import Snapshot
from service.tracing import Tracing
from service.transport.connections import Connections
from service.transport.protocol import Protocol

_LOG = logging.getLogger("fedlas.api")
#: For the requests in flight, then for the refusals of those that are not answered by then.
_LAST_ANSWERS_S = 0.3
_REFUSALS_S = 0.1
_COUNTS_S = 1.0
#: Models that a successor opens before they are asked for.
_MAX_WARMED = 32
#: To end this process costs others little.
_MAX_GRACE_S = 3.0


class Ending:
    """Ends the process once; on the event loop.

    Args:
        begun: called with the file at fault: no request is taken any more.

    Attributes:
        server: its connections are handed over, those with a request under way after their answers.
        give_up: refuses what has no answer yet.
    """

    def __init__(self, begun: Callable[[str], None]) -> None:
        self._begun = begun
        self._task: asyncio.Task[None] | None = None
        self.server: Server | None = None
        self.give_up: Callable[[], None] = lambda: None

    def __call__(self, digest: str) -> None:
        """A run of this served copy does not end."""
        if self._task is None:
            _LOG.critical("a run of the served copy %s does not end: the process ends", digest)
            self._begun(digest)
            self._task = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        try:
            if self.server is not None:
                await self.server.depart(seconds=_LAST_ANSWERS_S)
                self.give_up()
                await self.server.depart(seconds=_REFUSALS_S)
        finally:
            os._exit(STUCK_EXIT_CODE)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.processes.serving")
    parser.add_argument("--name", required=True, help="of this process among all")
    parser.add_argument("--channel", type=int, required=True, help="the channel of this process, to control")
    parser.add_argument("--served", type=Path, required=True, help="the served folder")
    parser.add_argument("--host-name", action="append", default=[], help="under which browsers reach the service")
    parser.add_argument("--run-marks", type=int, help="the memory in which it marks what it runs")
    parser.add_argument("--traced", action="store_true", help="control sends spans on")
    parser.add_argument("--heartbeat", type=int, help="write a byte into this pipe while the process lives")
    return parser.parse_args()


def main() -> int:
    """`python -m service.processes.serving`, started by `fedlas serve` with the settings of serving only.

    Serves until SIGINT or SIGTERM; returns the exit code.
    """
    options, settings = _options(), ServingSettings()
    prepare_process(settings)
    if settings.api_memory_bytes is not None or "CUDAExecutionProvider" not in providers():
        limit(settings.resolved_api_memory_bytes)
    control = ControlChannel(socket.socket(fileno=options.channel), provider=providers()[0])
    keys = Keys(Fingerprints.parsed(os.environ[ADMINISTRATORS]), options.served / KEYS)
    folder = ServedFolder(options.served)
    look_up = Lookup(folder, control.want)
    metrics = ServingMetrics(most_models=settings.metrics_models)
    ending = Ending(control.stuck)
    tracing = Tracing.through(control.tell_spans) if options.traced else Tracing()
    services = ServingServices.open(
        settings,
        scheduler_of(
            settings,
            folder.file,
            tracing,
            on_stuck=ending,
            longest_grace=_MAX_GRACE_S,
            marks=RunMarks(options.run_marks),
        ),
        access=AccessControl(frozenset(options.host_name), keyed=keys.needed),
        keys=keys,
        look_up=look_up,
        metrics=metrics,
        tracing=tracing,
        access_log=AccessLog(),
    )
    app = ServingApp(_elsewhere, services, ROUTES)
    protocol = partial(Protocol, connections=Connections.of(settings), hand_over=control)
    config = configured(app, settings, lifespan="off", protocol=protocol)
    services.start()
    services.access_log.start()

    async def meet() -> None:
        with suppress(OSError):  # without filters there is none, as the log says at the start
            seccomp.install(confined.adopting(), every_thread=True)
        control.start(
            server.protocol, services.model_repository, lambda: Snapshot(metrics.own(), metrics.own_gauges()).encode()
        )

    def stopped() -> None:
        control.tell_counts()
        services.tracing.close()
        services.scheduler.shut_down()
        services.access_log.stop()

    server = Server(
        config,
        background=[
            Heartbeat(options.heartbeat).run,
            MemoryRelease(release_arena).run,
            meet,
            partial(repeat, _COUNTS_S, partial(_tell_counts, control)),
            partial(_open_newest, services.model_repository, folder),
            services.model_repository.tend,
        ],
        stopping=control.leave,
        closing=control.adopt_no_more,
        stopped=stopped,
    )
    ending.server, ending.give_up = server, app.give_up
    return server.run_until_stopped([])


async def _elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to what another process should answer, and does not take."""
    await problems.problem_of(scope["path"], restarting())(scope, receive, send)


async def _open_newest(models: ModelRepository, folder: ServedFolder) -> None:
    """Open what the process before has answered with."""
    for model_id in folder.newest(_MAX_WARMED):
        await models.prepare(model_id)


async def _tell_counts(channel: ControlChannel) -> None:
    channel.tell_counts()


if __name__ == "__main__":
    sys.exit(main())
