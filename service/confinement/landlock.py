"""Landlock: from now on this process reads and writes only below the paths that it names.

The kernel grants rights along the hierarchy of folders and no right can be taken back below a granted one, so what is
granted must not contain what is secret. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from service.confinement.kernel import call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_FIFO = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 10
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

LIST = _READ_DIR
READ = _READ_DIR | _READ_FILE
RUN = READ | _EXECUTE
DEVICE = _READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL_DEV
#: Everything but devices, sockets and symbolic links: the supervisor opens what is left behind.
WRITE = (
    READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _REFER | _TRUNCATE
)  # fmt: skip


def version() -> int:
    """Which version of Landlock the kernel speaks; raises OSError where it speaks none."""
    return call("syscall", _CREATE_RULESET, None, 0, _ASK_VERSION)


def restrict(grants: Iterable[tuple[Path, int]]) -> int:
    """Allow only these rights below these paths, no TCP and no signals to others; returns Landlock's version.

    A path that cannot be granted is left out alone: nothing below it can be reached, and everything else holds. Needs
    `no_new_privs`. Raises OSError where the kernel does not let us.
    """
    spoken = version()
    handled = _handled(spoken)
    # Which fields the structure has depends on the version: TCP since 4, abstract sockets and signals since 6.
    fields = [handled] + ([0b11] if spoken >= 4 else []) + ([0b11] if spoken >= 6 else [])
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = call("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in grants:
            with suppress(OSError, ValueError):  # not there, too long a name, links in a circle, NUL in it
                _grant(ruleset, path, rights & handled)
        call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return spoken


def _handled(spoken: int) -> int:
    """All rights on files that this version knows; what is handled and not granted is denied."""
    return (1 << (13 if spoken < 2 else 14 if spoken < 3 else 15 if spoken < 5 else 16)) - 1


def _grant(ruleset: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _FOR_FILES
        call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)
