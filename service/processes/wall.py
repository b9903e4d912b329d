"""The wall: an acceptor, control, and the processes that answer predictions, with the protections that hold here.

Control holds the keys and the registry. The others are given nothing of it: their environment is an allow-list. What a
trial of the protections finds is expected of every process behind the wall: one that lacks it does not begin.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from service.confinement.confinement import Report, controls_on, protections, tried
from service.heartbeat import Pulse
from service.ipc.documents import ACCEPTOR, CONTROL
from service.processes.child_process import ChildProcess, say
from service.processes.introductions import Introductions
from service.processes.supervision import bound, empty_served, numbered, supervise
from service.registry.settings import ServiceSettings, ServingSettings
from service.served.keys import ADMINISTRATORS, Fingerprints
from service.tracing import asked_for

#: Control → what it is for, and what permits it where it is off.
PROTECTIONS = {
    "network": ("no network", "allow user namespaces (sysctl user.max_user_namespaces), or seccomp"),
    "files": (
        "reads only the served folder, writes nothing",
        "Linux 5.13 or newer with Landlock among lsm= of the kernel",
    ),
    "user": (
        "has a user of its own",
        "start the service as a user other than root, or leave it CAP_SETUID and CAP_SETGID",
    ),
    "system_calls": ("runs no program and opens no socket", "a kernel with seccomp, on x86-64 or ARM64"),
    "privileges": ("never gains rights", "a Linux kernel"),
    "limits": ("open files are limited, and threads if they are counted apart", "a Linux kernel"),
}
HARM = "predictions are answered without this protection"
#: How long a process that waits for nothing may take to begin: loading everything takes a second or two.
_FIRST_BEAT_S = 40.0
_PASSED_ON = frozenset(
    {
        *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONUNBUFFERED"),
        *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
        *(f"FEDLAS_{name.upper()}" for name in ServingSettings.model_fields),
    }
)


def confined(process: str, expected: Sequence[str], *arguments: str) -> list[str]:
    """The command of a process behind the wall, `serving` or `acceptor`, which begins with these controls only."""
    options = [option for control in expected for option in ("--expect", control)]
    return [sys.executable, "-P", "-m", "service.processes.confined", process, *options, *arguments]


def trial(root: Path | None, environment: Mapping[str, str] | None = None) -> Report:
    """Try out which controls a process behind the wall has here; served copies lie in `root`."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        return tried([*confined("serving", ()), "--served", folder, "--trial"], environment)


def missing(report: Report) -> list[str]:
    lines = protections(report, PROTECTIONS, HARM)
    return [f"{line['found']}; it needs: {line['remedy']}" for line in lines if line["status"] != "ok"]


def expected(settings: ServiceSettings, report: Report) -> list[str]:
    """Controls required behind the wall; warns of those that are missing; raises SystemExit where all must be there."""
    lines = missing(report)
    if lines and settings.wall == "required":
        raise SystemExit("FEDLAS_WALL=required, and this machine has no whole wall:\n" + "\n".join(lines))
    for line in lines:
        say("serve", f"WARNING {line}")
    return controls_on(report)


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
    introductions = stack.enter_context(contextlib.closing(Introductions()))
    restricted = {**bare(environment), "FEDLAS_API_PROCESSES": str(settings.resolved_api_processes)}
    of_serving = {**restricted, ADMINISTRATORS: str(Fingerprints.of(settings.api_keys))}
    controls = expected(settings, trial(run_dir, restricted))
    of_control = {
        **environment,
        "FEDLAS_DATA_DIR": str(settings.data_dir.absolute()),
        "FEDLAS_API_PROCESSES": str(settings.resolved_api_processes),
        "FEDLAS_HOST": settings.host,
        "FEDLAS_PORT": str(listener.getsockname()[1]),
    }
    counts, served = run_dir / "serving.counts", empty_served(run_dir)
    counts.unlink(missing_ok=True)
    control = [sys.executable, "-m", "service.processes.control"]
    control += ["--served", str(served), "--counts", str(counts)]
    return [
        watched(CONTROL, control, of_control, settings, run_dir, introductions, stack),
        *_serving(settings, controls, of_serving, asked_for(environment), served, introductions, stack),
        _acceptor(settings, controls, restricted, run_dir, listener, introductions, stack),
    ]


def bare(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of processes that hold nothing: also how spans are sampled and named, yet not where they go."""
    return {
        name: value
        for name, value in environment.items()
        if name in _PASSED_ON or (name.startswith("OTEL_") and "EXPORTER" not in name)
    }


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of processes that check no key; a client's own (`FEDLAS_API_KEY`) is for none of them."""
    secret = ("FEDLAS_API_KEY", "FEDLAS_METRICS_KEY")
    return {name: value for name, value in environment.items() if not name.startswith(secret)}


def _serving(
    settings: ServiceSettings,
    expected: Sequence[str],
    environment: Mapping[str, str],
    traced: bool,
    served: Path,
    introductions: Introductions,
    stack: contextlib.ExitStack,
) -> Iterator[ChildProcess]:
    """Processes that answer predictions."""
    for number in range(1, settings.resolved_api_processes + 1):
        name = f"serving-{number}"
        command = [
            *confined("serving", expected, "--name", name, "--served", str(served)),
            *(option for host in sorted(settings.host_names) for option in ("--host-name", host)),
            *(["--traced"] if traced else []),
        ]
        yield watched(name, command, environment, settings, served.parent, introductions, stack, runs_models=True)


def _acceptor(
    settings: ServiceSettings,
    expected: Sequence[str],
    environment: Mapping[str, str],
    run_dir: Path,
    listener: socket.socket,
    introductions: Introductions,
    stack: contextlib.ExitStack,
) -> ChildProcess:
    command = [
        *confined("acceptor", expected, "--fd", str(listener.fileno()), "--most", str(settings.max_connections)),
        *("--per-address", str(settings.max_connections_per_address)),
        *(option for network in settings.trusted_proxies for option in ("--trusted-proxy", str(network))),
    ]
    return watched(ACCEPTOR, command, environment, settings, run_dir, introductions, stack, listener=listener)


def watched(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    settings: ServiceSettings,
    run_dir: Path,
    introductions: Introductions | None,
    stack: contextlib.ExitStack,
    *,
    listener: socket.socket | None = None,
    runs_models: bool = False,
) -> ChildProcess:
    """A process whose event loop is watched; one that is given a listener accepts from it."""
    first = None if name in (CONTROL, "api") else _FIRST_BEAT_S  # these two wait for the database
    pulse = Pulse(listener, hung_seconds=settings.hung_seconds, first_seconds=first)
    stack.callback(pulse.close)
    return ChildProcess(
        name,
        [*command, "--heartbeat", str(pulse.write)],
        environment,
        run_dir / f"{name}.pid",
        passed_on=[pulse.write] if listener is None else [listener.fileno(), pulse.write],
        pulse=pulse,
        introductions=introductions,
        runs_models=runs_models,
        listener=listener,
    )
