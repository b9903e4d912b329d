"""The wall as this machine can have it: which protections hold here, found by trying them.

What the trial finds is expected of every process behind the wall: one that lacks it does not begin.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.confinement.confinement import CONTROLS, Report, controls_on
from service.processes.child_process import say
from service.settings import ServiceSettings

_TRIAL_S = 30
#: Control → what it is for, and what permits it where it is off.
PROTECTIONS = {
    "network": ("no network", "allow user namespaces (sysctl user.max_user_namespaces), or seccomp"),
    "files": (
        "reads only its served copies, writes nothing",
        "Linux 5.13 or newer with Landlock among lsm= of the kernel",
    ),
    "user": (
        "has a user of its own",
        "start the service as a user other than root, or leave it CAP_SETUID and CAP_SETGID",
    ),
    "system_calls": ("runs no program and opens no socket", "a kernel with seccomp, on x86-64 or ARM64"),
    "privileges": ("never gains rights", "a Linux kernel"),
    "limits": ("threads and open files are limited", "raise the hard limits of this user (ulimit -Hn, -Hu)"),
}


def command(process: str, expected: Sequence[str], *arguments: str) -> list[str]:
    """The command of a process behind the wall, `serving` or `acceptor`, which begins with these controls only."""
    options = [option for control in expected for option in ("--expect", control)]
    return [sys.executable, "-P", "-m", "service.processes.confined", process, *options, *arguments]


def trial(root: Path | None, environment: Mapping[str, str] | None = None) -> Report:
    """What a serving process can give up here.

    Args:
        root: where served copies lie; what is open to others there decides whether root can be given up.
    """
    try:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            done = subprocess.run(
                [*command("serving", ()), "--folder", folder, "--trial"],
                capture_output=True, timeout=_TRIAL_S, stdin=subprocess.DEVNULL, text=True, env=environment,
            )  # fmt: skip
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return dict.fromkeys(CONTROLS, f"off: the trial took longer than {_TRIAL_S} s")
    except ValueError:
        reason = f"off: the trial failed with exit code {done.returncode}: {done.stderr[-500:]}"
        return dict.fromkeys(CONTROLS, reason)


def say_off() -> None:
    """Say that there is no wall."""
    say("serve", "predictions run in the process that holds keys and passwords (FEDLAS_WALL=off): trust all uploads")


def missing(report: Report) -> list[str]:
    """A sentence for each control that this machine lacks."""
    return [
        f"predictions are answered without this protection: {meaning} "
        f"({report.get(control, 'off: unknown').removeprefix('off: ')}); it needs: {remedy}"
        for control, (meaning, remedy) in PROTECTIONS.items()
        if control not in controls_on(report)
    ]


def expected(settings: ServiceSettings, report: Report) -> list[str]:
    """The controls without which no process behind the wall begins; warns of those that this machine lacks.

    Raises:
        SystemExit: the wall is required, and one of them is missing.
    """
    lines = missing(report)
    if lines and settings.wall == "required":
        raise SystemExit("FEDLAS_WALL=required, and this machine has no whole wall:\n" + "\n".join(lines))
    for line in lines:
        say("serve", f"WARNING {line}")
    return controls_on(report)
