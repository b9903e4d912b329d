"""Confinement of a child before it opens anything: no network, no other files, a user of its own, few system calls.

`confine` is called once by the child, early and with a single thread. Each control that this machine does not permit
is left out and named; the others still hold. `status` tries it in a process of its own and tells what is missing.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from worker.sandbox import landlock, seccomp
from worker.sandbox.kernel import (
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

#: A user per child, so that no child can touch another: this one plus the process id. systemd leaves the range free.
_FIRST_USER = 1_900_000_000
_NOBODY = 65534
_PACKAGES = ("fedlas", "service", "worker")
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_MOST_FILES, _MOST_PROCESSES = 4096, 1024
_PROBE_S = 30
_MEANING = {
    "network": "no network",
    "files": "reads only its inputs and writes only its folder",
    "user": "not root",
    "system_calls": "dangerous system calls denied",
}

Report = dict[str, str]


def confine(folder: Path, inputs: Iterable[Path]) -> Report:
    """Give up all but reading `inputs` and the interpreter, and writing `folder`; may be called once.

    An input that is no plain file (it is not there, it is a folder, its name is none) is left out alone.

    Returns:
        For each control `"on: how"` or `"off: why"`; nothing is raised where this machine lacks one.
    """
    needed = [found for path in inputs if (found := _found(path)) is not None]
    group, user = os.getegid(), os.geteuid()
    limits = _attempt(lambda: _limit_resources(user))
    namespace = _attempt(lambda: _leave_network(user, group))
    privileges = _attempt(_no_new_privileges)
    files = _attempt(lambda: f"Landlock {landlock.restrict(_grants(folder, needed))}")
    changed = _attempt(lambda: _leave_root(folder, needed, confined=files.startswith("on")))
    calls = _attempt(_filter_calls)
    network = calls if calls.startswith("on") and not namespace.startswith("on") else namespace
    return {
        "network": network, "files": files, "user": changed, "system_calls": calls,
        "privileges": privileges, "limits": limits,
    }  # fmt: skip


def status(root: Path | None = None) -> Report:
    """What `confine` can do on this machine, found by doing it in a process that ends at once.

    Args:
        root: where children have their folders; what is open to others there decides what root can give up.
    """
    with tempfile.TemporaryDirectory(dir=root) as folder, tempfile.NamedTemporaryFile(dir=root) as given:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "worker.sandbox.confinement", folder, given.name],
            capture_output=True, timeout=_PROBE_S, check=False, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        return {"files": f"off: the trial failed with exit code {done.returncode}: {done.stderr[-500:]}"}


def controls_on(report: Report) -> list[str]:
    """The controls that were found on."""
    return [name for name, what in report.items() if what.startswith("on")]


def lacking(report: object, expected: Iterable[str]) -> list[str]:
    """Which of the expected controls are not on by this report, and why.

    >>> lacking({"files": "on: Landlock 7", "user": "off: no such user"}, ["files", "user", "network"])
    ['user off: no such user', 'network off: unknown']
    """
    told = report if isinstance(report, dict) else {}
    found = {name: str(told.get(name, "off: unknown")) for name in expected}
    return [f"{name} {what}" for name, what in found.items() if not what.startswith("on")]


def warnings(report: Report) -> list[str]:
    """A sentence for each control that is missing."""
    return [
        f"uploads are opened without this protection: {meaning} "
        f"({report.get(name, 'off: unknown').removeprefix('off: ')})"
        for name, meaning in _MEANING.items()
        if not report.get(name, "off").startswith("on")
    ]


def _attempt(control: Callable[[], str]) -> str:
    try:
        return f"on: {control()}"
    except (OSError, AttributeError, ValueError) as error:  # not Linux, an old kernel, or a container that forbids it
        return f"off: {error}"


def _found(path: Path) -> Path | None:
    """The plain file that this leads to; None where it leads to none, or to a folder with everything below it."""
    try:
        found = path.resolve(strict=True)
        return found if found.is_file() else None
    except (OSError, ValueError, RuntimeError):  # not there, a name too long, NUL in it, links in a circle
        return None


def _limit_resources(user: int) -> str:
    processes = _MOST_PROCESSES + (0 if user == 0 else _running(user))
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_NOFILE, _MOST_FILES)
    lower(resource.RLIMIT_NPROC, processes)
    with suppress(OSError):  # under pressure the kernel ends children before anything else
        Path("/proc/self/oom_score_adj").write_text("500")
    return f"{_MOST_FILES} open files, {processes} processes"


def lower(kind: int, value: int) -> None:
    """Limit a resource of this process to `value`, or to what it is limited to already."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _running(user: int) -> int:
    """Threads of this user now: the kernel's limit counts them all, also those outside the child."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid == user:
                count += len(os.listdir(process / "task"))
    return count


def _leave_network(user: int, group: int) -> str:
    if user == 0:
        unshare(CLONE_NEWNET | CLONE_NEWIPC)
        return "namespace"
    unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC)
    map_only_this_user(user, group)
    return "user namespace"


def _no_new_privileges() -> str:
    allow_no_new_privileges()
    return "no_new_privs"


def _filter_calls() -> str:
    seccomp.install()
    return "seccomp"


def _grants(folder: Path, inputs: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """What a child may see: its folder, its inputs, the interpreter with its libraries, the system's, and devices."""
    for path in _libraries():
        if folder.is_relative_to(path):  # people keep their data beside the code
            yield path, landlock.LIST
        else:
            yield path, landlock.RUN
    yield from ((package, landlock.RUN) for package in _packages())
    yield from ((Path(path), landlock.RUN) for path in _SYSTEM)
    yield from ((Path(path), landlock.READ) for path in ("/proc", "/sys"))
    yield from ((Path(path), landlock.DEVICE) for path in _DEVICES)
    yield from ((path, landlock.DEVICE) for path in Path("/dev").glob("nvidia*"))
    yield Path("/dev/shm"), landlock.WRITE
    yield from ((path, landlock.READ) for path in inputs)
    yield folder, landlock.WRITE | landlock.RUN  # compilers of kernels load what they have written


def _libraries() -> list[Path]:
    """Where modules and shared libraries lie."""
    searched = [sys.prefix, sys.base_prefix, *sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    return [path for path in dict.fromkeys(Path(name).resolve() for name in searched if name) if path != Path("/")]


def _packages() -> list[Path]:
    """Our own packages: an editable installation keeps them outside the environment."""
    root = Path(__file__).resolve().parents[2]
    return [root / name for name in _PACKAGES]


def _leave_root(folder: Path, inputs: list[Path], *, confined: bool) -> str:
    """Become a user of its own; keep the right to read what Landlock allows, and give up all other rights."""
    if os.geteuid() != 0:
        keep_capabilities(())
        return f"user {os.geteuid()}"
    permitted = permitted_capabilities()
    usable = [CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE] if confined else []
    kept = [capability for capability in usable if permitted >> capability & 1][:1]
    if not kept and (closed := _closed([*_libraries(), *_packages(), *inputs, folder.parent])):
        raise PermissionError(f"another user than root could not read {closed}")
    return _become_nobody(folder, kept)


def _become_nobody(folder: Path, kept: list[int]) -> str:
    for user in (_FIRST_USER + os.getpid(), _NOBODY):
        try:
            for path in (folder, *folder.iterdir()):
                os.chown(path, user, user, follow_symlinks=False)
            become(user, user, kept)
        except OSError:  # a container whose user namespace has no such user
            if user == _NOBODY:
                raise
        else:
            return f"user {user}"
    raise AssertionError


def _closed(paths: Iterable[Path]) -> Path | None:
    """The first file or folder on the way to these that is not open to everybody."""
    for path in paths:
        for step in (path, *path.parents):
            wanted = 0o001 if step.is_dir() else 0o004
            if step.exists() and not step.stat().st_mode & wanted:
                return step
    return None


if __name__ == "__main__":
    print(json.dumps(confine(Path(sys.argv[1]).resolve(), map(Path, sys.argv[2:]))))
