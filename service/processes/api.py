"""The API process that answers predictions itself: for `fedlas api`, and for `fedlas serve` without a wall.

`create_app` is its composition root: settings in, an ASGI application out.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from service.api.plumbing.services import Core, Services
from service.heartbeat import Heartbeat
from service.predict.app import ROUTES, ServingApp
from service.predict.call import ServingServices, scheduler_of
from service.predict.engine.quarantine import Quarantine
from service.predict.engine.session import providers, release_arena
from service.process_memory import MemoryRelease, limit
from service.processes.control import await_database, say_where
from service.processes.supervision import empty_served, numbered
from service.registry.settings import ServiceSettings
from service.rest_api import App, build_document, rest_api
from service.server import STUCK_EXIT_CODE, Server, configured, prepare_process
from service.tracing import Tracing
from service.transport.connections import Connections
from service.transport.protocol import Protocol

_LOG = logging.getLogger("fedlas.api")


def create_app(
    settings: ServiceSettings,
    *,
    run_dir: Path | None = None,
    on_stuck: Callable[[Quarantine, str], None] | None = None,
) -> App:
    """Build the application; the registry is opened and migrated here, and closed when the application stops.

    The served folder lies in `run_dir`, which no other process uses; without one in a new folder.
    `on_stuck` is called with the digest of a served copy whose run does not end when its time is up, to suspend it.
    """
    if run_dir is None:
        parent = settings.data_dir.absolute() / "run"
        parent.mkdir(parents=True, exist_ok=True)
        run_dir = Path(tempfile.mkdtemp(prefix="api-", dir=parent))
    core = Core.open(settings, Tracing.from_environment(), empty_served(run_dir))
    serving = ServingServices.open(
        settings,
        scheduler_of(
            settings,
            core.look_up.folder.file,
            core.tracing,
            on_stuck=None if on_stuck is None else partial(on_stuck, core.quarantine),
        ),
        access=core.access,
        keys=core.keys,
        look_up=core.look_up,
        metrics=core.metrics,
        tracing=core.tracing,
        access_log=core.access_log,
    )
    services = Services.over(core, serving.model_repository)

    fastapi = rest_api(
        services, starting=serving.start, stopping=serving.scheduler.shut_down, working=serving.model_repository.tend
    )
    return App.fronted(ServingApp(fastapi, serving, ROUTES), fastapi, services)


def run(settings: ServiceSettings, *, sockets: Sequence[socket.socket] = (), heartbeat: int | None = None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Args:
        sockets: listen on these instead of `settings.listen_host` and `settings.port`. While another process keeps such
            a socket open, connections wait in its queue until the next API process starts.
        heartbeat: a pipe into which a byte is written twice a second while the event loop turns.
    """
    prepare_process(settings)
    say_where(settings)
    await_database(settings)
    # CUDA reserves address space of its own, which was never tried under a limit: there the limit must be set.
    if settings.api_memory_bytes is not None or "CUDAExecutionProvider" not in providers():
        limit(settings.resolved_api_memory_bytes)
    with numbered(settings.data_dir.absolute() / "run") as run_dir:
        app = create_app(settings, run_dir=run_dir, on_stuck=_end)
        config = configured(
            app.front, settings, lifespan="on", protocol=partial(Protocol, connections=Connections.of(settings))
        )
        config.host, config.port = settings.listen_host, settings.port
        beating = Heartbeat(heartbeat)
        server = Server(
            config,
            background=[beating.run, MemoryRelease(release_arena).run, partial(build_document, app.fastapi)],
            stopping=app.services.long_poll.close,
        )
        return server.run_until_stopped(list(sockets) or None)


def _end(quarantine: Quarantine, digest: str) -> None:
    """End the process, because its run of this served copy does not end, and suspend the copy for a while."""
    _LOG.critical("a run of the served copy %s does not end: the process ends, and the model is suspended", digest)
    quarantine.add(digest)
    os._exit(STUCK_EXIT_CODE)
