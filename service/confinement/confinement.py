"""Confinement by a policy: no network, no other files, a user of its own, few system calls.

`confine` is called once by the process itself, early and with a single thread. Each control that this machine does not
permit is left out and named; the others still hold.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.confinement import landlock, seccomp
from service.confinement.landlock import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWUSER,
    allow_no_new_privileges,
    become,
    keep_capabilities,
    map_only_this_user,
    permitted_capabilities,
    unshare,
)

_PACKAGES = ("fedlas", "service", "worker")
#: A process that confines itself loads little, from a disk that may be cold.
_TRIAL_S = 120
#: Files that libraries of the system and the C library read.
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
#: The controls, in the order of the report.
CONTROLS = ("network", "files", "user", "system_calls", "privileges", "limits")
#: A user per process, so that none can touch another: this one plus the process id. systemd leaves the range free.
_FIRST_USER = 1_900_000_000
_NOBODY = 65534
Report = dict[str, str]


def libraries() -> list[Path]:
    searched = [sys.prefix, sys.base_prefix, *sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    return [path for path in dict.fromkeys(Path(name).resolve() for name in searched if name) if path != Path("/")]


def packages() -> list[Path]:
    """Our own packages: an editable installation keeps them outside the environment."""
    return [Path(__file__).resolve().parents[2] / name for name in _PACKAGES]


@dataclass(frozen=True, slots=True)
class Policy:
    """Rights that a process keeps; it gives up everything else.

    Attributes:
        grants: rights on files, and on everything below folders.
        calls: the filter of system calls.
        needed: what it has to read as another user than root: with that right, or where files are open to everybody.
        owned: files and folders that become that user's.
        most_files: that are open at once.
        most_processes: of it and its descendants, threads among them, if the kernel counts them apart from others.
    """

    grants: Sequence[tuple[Path, int]]
    calls: seccomp.Filter
    needed: Sequence[Path] = ()
    owned: Sequence[Path] = ()
    most_files: int = 4096
    most_processes: int = 1024
    limits: dict[int, int] = field(default_factory=dict)


def confine(policy: Policy) -> Report:
    """Give up everything that the policy does not name; may be called once.

    Returns:
        For each control `"on: how"` or `"off: why"`; nothing is raised where this machine lacks one.
    """
    group, user = os.getegid(), os.geteuid()
    namespace = _attempt(lambda: _leave_network(user, group))
    # The kernel counts processes by user, in all containers together: ours are counted apart as a user of their own, or
    # in a user namespace, since Linux 5.14. Any other limit would depend on what that user runs beside.
    kernel = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    apart = user == 0 or (namespace.startswith("on") and kernel >= (5, 14))
    limits = _attempt(lambda: _limit_resources(policy, apart=apart))
    privileges = _attempt(allow_no_new_privileges)
    files = _attempt(lambda: f"Landlock {landlock.restrict(policy.grants)}")
    changed = _attempt(lambda: _leave_root(policy, confined=files.startswith("on")))
    calls = _attempt(lambda: _filter_calls(policy.calls))
    network = calls if calls.startswith("on") and not namespace.startswith("on") else namespace
    return dict(zip(CONTROLS, (network, files, changed, calls, privileges, limits), strict=True))


def protections(
    report: Report, controls: Mapping[str, tuple[str, str]], harm: str, *, place: str = "", off: str = "warn"
) -> Iterator[dict[str, str]]:
    """A line of `fedlas doctor` for each control: it is `ok`, or else `off`, with what permits it.

    Args:
        controls: the purpose of each control, and what permits it.
        harm: begins the sentence about a control that is off.
        place: begins the name of each line.
    """
    for name, (meaning, remedy) in controls.items():
        state, _, how = report.get(name, "off: unknown").partition(": ")
        line = {"name": f"{place}{name.replace('_', ' ')}", "status": "ok", "found": f"{meaning} ({how})", "remedy": ""}
        yield line if state == "on" else {**line, "status": off, "found": f"{harm}: {line['found']}", "remedy": remedy}


def tried(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Report:
    """The report that a process which confines itself prints before it ends."""
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=_TRIAL_S, env=environment
        )
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return dict.fromkeys(CONTROLS, f"off: the trial took longer than {_TRIAL_S} s")
    except ValueError:
        return dict.fromkeys(CONTROLS, f"off: the trial failed with exit code {done.returncode}: {done.stderr[-500:]}")


def controls_on(report: Report) -> list[str]:
    return [name for name, what in report.items() if what.startswith("on")]


def lacking(report: object, expected: Iterable[str]) -> list[str]:
    """The expected controls that are not on by this report, each with its reason.

    >>> lacking({"files": "on: Landlock 7", "user": "off: no such user"}, ["files", "user", "network"])
    ['user off: no such user', 'network off: unknown']
    """
    told = report if isinstance(report, dict) else {}
    states = {name: str(told.get(name, "off: unknown")) for name in expected}
    return [f"{name} {what}" for name, what in states.items() if not what.startswith("on")]


def lower(kind: int, value: int) -> None:
    """Limit a resource of this process to `value`, or to what it is limited to already."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _attempt(control: Callable[[], str]) -> str:
    try:
        return f"on: {control()}"
    except (OSError, AttributeError, ValueError) as error:  # not Linux, an old kernel, or a container that forbids it
        return f"off: {error}"


def _limit_resources(policy: Policy, *, apart: bool) -> str:
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_NOFILE, policy.most_files)
    if apart:
        lower(resource.RLIMIT_NPROC, policy.most_processes)
    for kind, value in policy.limits.items():
        lower(kind, value)
    with suppress(OSError):  # under pressure the kernel ends such processes before anything else
        Path("/proc/self/oom_score_adj").write_text("500")
    processes = policy.most_processes if apart else "as many as this user may have"
    return f"open files: {policy.most_files}, processes: {processes}"


def _leave_network(user: int, group: int) -> str:
    if user == 0:
        unshare(CLONE_NEWNET | CLONE_NEWIPC)
        return "namespace"
    unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC)
    map_only_this_user(user, group)
    return "user namespace"


def _filter_calls(wanted: seccomp.Filter) -> str:
    seccomp.install(wanted)
    return "seccomp"


def _leave_root(policy: Policy, *, confined: bool) -> str:
    """Become a user of its own; keep the right to read what Landlock allows, and give up all other rights."""
    if os.geteuid() != 0:
        keep_capabilities(())
        return f"user {os.geteuid()}"
    permitted = permitted_capabilities()
    usable = [CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE] if confined and policy.needed else []
    kept = [capability for capability in usable if permitted >> capability & 1][:1]
    if not kept and (closed := _closed(policy.needed)):
        raise PermissionError(f"another user than root could not read {closed}")
    return _become_nobody(policy.owned, kept)


def _become_nobody(owned: Iterable[Path], kept: list[int]) -> str:
    for user in (_FIRST_USER + os.getpid(), _NOBODY):
        try:
            for path in owned:
                os.chown(path, user, user, follow_symlinks=False)
            become(user, user, kept)
        except OSError:  # a container whose user namespace has no such user
            if user == _NOBODY:
                raise
        else:
            return f"user {user}"
    raise AssertionError


def _closed(paths: Iterable[Path]) -> Path | None:
    for path in paths:
        for step in (path, *path.parents):
            if step.exists() and not step.stat().st_mode & (0o001 if step.is_dir() else 0o004):
                return step
    return None
