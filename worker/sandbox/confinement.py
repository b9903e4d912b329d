"""Confinement of a child before it opens anything: only its inputs stay readable and its folder writable.

`status` tries it in a process of its own and tells what is missing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.confinement import confinement, landlock
from service.confinement.confinement import DEVICES, SYSTEM, Policy, Report, libraries, packages
from service.confinement.seccomp import OWN_PRIORITY, Condition, Filter

_AF_UNIX = 1
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CALLS = Filter(
    conditions={
        **OWN_PRIORITY,
        "clone": (Condition(0, _NEW_NAMESPACES, 0),),
        "socket": (Condition(0, 0xFFFFFFFF, _AF_UNIX),),
    }
)
#: Control → what it is for, and what permits it where it is off.
CONTROLS = {
    "network": ("no network", "allow user namespaces (sysctl user.max_user_namespaces), or seccomp"),
    "files": (
        "reads only its inputs and writes only its folder",
        "Linux 5.13 or newer with Landlock among lsm= of the kernel",
    ),
    "user": ("is not root", "start the worker as a user other than root, or leave it CAP_SETUID and CAP_CHOWN"),
    "system_calls": ("dangerous system calls are denied", "a kernel with seccomp, on x86-64 or ARM64"),
    "privileges": ("never gains rights", "a Linux kernel"),
    "limits": ("open files are limited, and processes if they are counted apart", "a Linux kernel"),
}
HARM = "uploads are opened without this protection"
#: Controls that a worker warns of: without the others it is as safe, and uses more.
_WARNED_OF = {name: CONTROLS[name] for name in ("network", "files", "user", "system_calls")}


def confine(folder: Path, inputs: Iterable[Path]) -> Report:
    """Give up all but reading `inputs` and the interpreter, and writing `folder`; may be called once.

    An input that is no plain file (it is not there, it is a folder, its name is none) is left out alone.

    Returns:
        For each control `"on: how"` or `"off: why"`; nothing is raised where this machine lacks one.
    """
    given = [file for path in inputs if (file := _found(path)) is not None]
    return confinement.confine(
        Policy(
            grants=list(_grants(folder, given)),
            calls=_CALLS,
            needed=[*libraries(), *packages(), *given, folder.parent],
            owned=[folder, *(folder.iterdir() if folder.is_dir() else ())],
        )
    )


def status(root: Path | None = None) -> Report:
    """Controls that `confine` has on this machine, tried in a process that ends; children's folders lie in `root`."""
    with tempfile.TemporaryDirectory(dir=root) as folder, tempfile.NamedTemporaryFile(dir=root) as given:
        return confinement.tried([sys.executable, "-P", "-m", "worker.sandbox.confinement", folder, given.name])


def warnings(report: Report) -> list[str]:
    return [line["found"] for line in confinement.protections(report, _WARNED_OF, HARM) if line["status"] != "ok"]


def _found(path: Path) -> Path | None:
    """The plain file that this leads to; None where it leads to none, or to a folder with everything below it."""
    try:
        file = path.resolve(strict=True)
        return file if file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # not there, a name too long, NUL in it, links in a circle
        return None


def _grants(folder: Path, inputs: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Rights of a child: to its folder, its inputs, the interpreter with its libraries, the system's, and devices."""
    for path in libraries():  # people keep their data beside the code
        yield path, landlock.LIST if folder.is_relative_to(path) else landlock.RUN
    yield from ((package, landlock.RUN) for package in packages())
    yield from ((Path(path), landlock.RUN) for path in SYSTEM)
    yield from ((Path(path), landlock.READ) for path in ("/proc", "/sys"))
    yield from ((Path(path), landlock.DEVICE) for path in DEVICES)
    yield from ((path, landlock.DEVICE) for path in Path("/dev").glob("nvidia*"))
    yield Path("/dev/shm"), landlock.WRITE
    yield from ((path, landlock.READ) for path in inputs)
    yield folder, landlock.WRITE | landlock.RUN  # compilers of kernels load what they have written


if __name__ == "__main__":
    print(json.dumps(confine(Path(sys.argv[1]).resolve(), map(Path, sys.argv[2:]))))
