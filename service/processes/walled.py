"""The API behind a wall: an acceptor, control, and the processes that answer predictions.

Control holds the keys and the registry. The others are given nothing of it: their environment is an allow-list.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from service.heartbeat import Pulse
from service.ipc.placement import ACCEPTOR, CONTROL, alone
from service.processes import wall
from service.processes.alone import AloneProcess
from service.processes.child_process import ChildProcess
from service.processes.forking import Template
from service.processes.introductions import Introductions
from service.processes.listeners import bound
from service.processes.run_folder import numbered
from service.processes.supervision import supervise
from service.settings import LEAST_MEMORY_BYTES, ServiceSettings, ServingSettings
from service.tracing import asked_for

_SERVED = "served"
#: How long a process that waits for nothing may take to begin: loading everything takes a second or two.
_FIRST_BEAT_S = 120.0
_PASSED_ON = frozenset(
    {
        *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONUNBUFFERED"),
        *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
        *(f"FEDLAS_{name.upper()}" for name in ServingSettings.model_fields),
    }
)


def serve_api(settings: ServiceSettings) -> int:
    """`fedlas api`: run until SIGINT or SIGTERM; returns the exit code."""
    with contextlib.ExitStack() as stack:
        run_dir = stack.enter_context(numbered(settings.data_dir.absolute() / "run"))
        listener = stack.enter_context(bound(settings))
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "FEDLAS_LOG_TIMES": "false"}
        supervise(walled_apis(settings, environment, run_dir, listener, stack), name="api")
    return 0


def walled_apis(
    settings: ServiceSettings,
    environment: Mapping[str, str],
    run_dir: Path,
    listener: socket.socket,
    stack: contextlib.ExitStack,
) -> list[ChildProcess]:
    """The processes, in the order in which they are started."""
    introductions = Introductions()
    stack.callback(introductions.close)
    restricted = {**bare(environment), "FEDLAS_API_PROCESSES": str(settings.api_processes)}
    expected = wall.expected(settings, wall.trial(run_dir, restricted))
    of_control = {
        **environment,
        "FEDLAS_DATA_DIR": str(settings.data_dir.absolute()),
        "FEDLAS_HOST": settings.host,
        "FEDLAS_PORT": str(listener.getsockname()[1]),
    }
    counts = run_dir / "serving.counts"
    # What an earlier run of the service has left: none of its processes lives.
    shutil.rmtree(run_dir / _SERVED, ignore_errors=True)
    counts.unlink(missing_ok=True)
    control = [sys.executable, "-m", "service.processes.control"]
    control += ["--folder", str(run_dir / _SERVED), "--counts", str(counts)]
    # One for those that hold everything, and one for those that hold nothing; none holds a key itself.
    trusted = Template.of("control", ["service.processes.control"], without_keys(of_control), run_dir)
    empty = Template.of(
        "serving", ["service.processes.confined", "service.processes.serving"], restricted, run_dir, "-P"
    )
    return [
        trusted,
        empty,
        _child(CONTROL, control, of_control, settings, run_dir, introductions, trusted, stack),
        *_serving(settings, expected, restricted, asked_for(environment), run_dir, introductions, empty, stack),
        _acceptor(settings, expected, restricted, run_dir, listener, introductions, stack),
    ]


def bare(environment: Mapping[str, str]) -> dict[str, str]:
    """What processes are given that hold nothing: also how spans are sampled and named, yet not where they go."""
    return {
        name: value
        for name, value in environment.items()
        if name in _PASSED_ON or (name.startswith("OTEL_") and "EXPORTER" not in name)
    }


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """What processes are given that check no key; a client's own (`FEDLAS_API_KEY`) is for none of them."""
    return {name: value for name, value in environment.items() if not name.startswith("FEDLAS_API_KEY")}


def _serving(
    settings: ServiceSettings,
    expected: Sequence[str],
    environment: Mapping[str, str],
    traced: bool,
    run_dir: Path,
    introductions: Introductions,
    template: Template,
    stack: contextlib.ExitStack,
) -> Iterator[ChildProcess]:
    """Those that answer predictions; those of single models come into being when control wants them."""
    names = [f"serving-{number}" for number in range(1, settings.api_processes + 1)]
    alone_names = [alone(number) for number in range(1, settings.isolated_models + 1)]
    smaller = {**environment, **_half_of_the_memory(settings)}
    for name in (*names, *alone_names):
        folder = run_dir / _SERVED / name
        folder.mkdir(parents=True, exist_ok=True)
        command = wall.command("serving", expected, "--name", name, "--folder", str(folder))
        command += [option for host in sorted(settings.host_names) for option in ("--host-name", host)]
        command += ["--keyed"] if settings.api_keys else []
        command += ["--traced"] if traced else []
        kind, given = (AloneProcess, smaller) if name in alone_names else (ChildProcess, environment)
        yield _child(
            name, command, given, settings, run_dir, introductions, template, stack, kind=kind, runs_models=True
        )


def _half_of_the_memory(settings: ServiceSettings) -> Mapping[str, str]:
    """The settings by which a process may take half of what another that answers predictions may."""
    if settings.api_memory_bytes is None:  # whether there is a limit then depends on the machine
        return {"FEDLAS_API_PROCESSES": str(2 * settings.api_processes)}
    return {"FEDLAS_API_MEMORY_BYTES": str(max(settings.api_memory_bytes // 2, LEAST_MEMORY_BYTES))}


def _acceptor(
    settings: ServiceSettings,
    expected: Sequence[str],
    environment: Mapping[str, str],
    run_dir: Path,
    listener: socket.socket,
    introductions: Introductions,
    stack: contextlib.ExitStack,
) -> ChildProcess:
    pulse = Pulse(listener, hung_seconds=settings.hung_seconds, first_seconds=_FIRST_BEAT_S)
    stack.callback(pulse.close)
    command = wall.command("acceptor", expected, "--fd", str(listener.fileno()))
    command += ["--most", str(settings.max_connections)]
    command += ["--per-address", str(settings.max_connections_per_address)]
    command += [option for network in settings.trusted_proxies for option in ("--trusted-proxy", str(network))]
    command += ["--heartbeat", str(pulse.write), "--hung-seconds", str(settings.hung_seconds)]
    return ChildProcess(
        ACCEPTOR,
        command,
        environment,
        run_dir / "acceptor.pid",
        passed_on=[listener.fileno(), pulse.write],
        pulse=pulse,
        introductions=introductions,
        listener=listener,
    )


def _child(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    settings: ServiceSettings,
    run_dir: Path,
    introductions: Introductions,
    template: Template,
    stack: contextlib.ExitStack,
    *,
    kind: type[ChildProcess] = ChildProcess,
    runs_models: bool = False,
) -> ChildProcess:
    first = None if name == CONTROL else _FIRST_BEAT_S  # control waits for the database
    pulse = Pulse(None, hung_seconds=settings.hung_seconds, first_seconds=first)
    stack.callback(pulse.close)
    return kind(
        name,
        [*command, "--heartbeat", str(pulse.write)],
        environment,
        run_dir / f"{name}.pid",
        passed_on=[pulse.write],
        pulse=pulse,
        introductions=introductions,
        template=template,
        runs_models=runs_models,
    )
