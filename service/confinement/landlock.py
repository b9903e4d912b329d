"""Linux calls that the standard library lacks (prctl, unshare, capset, by ctypes), and Landlock, which is made of them.

From `restrict` on this process reads and writes only below the paths that it names. The kernel grants rights along the
hierarchy of folders and no right can be taken back below a granted one, so what is granted must not contain what is
secret. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REMOVE_DIR = 1 << 4
_REMOVE_FILE = 1 << 5
_MAKE_DIR = 1 << 7
_MAKE_REG = 1 << 8
_MAKE_FIFO = 1 << 10
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
LIST = _READ_DIR
READ = _READ_DIR | _READ_FILE
RUN = READ | _EXECUTE
DEVICE = _READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL_DEV
#: Everything but devices, sockets and symbolic links: the supervisor opens what is left behind.
WRITE = (
    READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _REFER | _TRUNCATE
)  # fmt: skip


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library, numbers as `long`; raises OSError where it returns a negative number."""
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(getattr(_LIBC, name)(*wide))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int, pointer: object = None) -> None:
    """`prctl(2)` with one number, and one pointer where the option takes one; raises OSError."""
    call("prctl", option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def allow_no_new_privileges() -> str:
    """From here on no executed file gives more rights; returns what the kernel calls that; raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return "no_new_privs"


def set_dumpable(dumpable: bool) -> None:
    """Let processes of the same user look into this one (`/proc/PID/environ`, ptrace), or not; raises OSError."""
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends; raises OSError."""
    prctl(_PR_SET_PDEATHSIG, number)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new, empty ones; raises OSError."""
    call("unshare", flags)


def map_only_this_user(user: int, group: int) -> None:
    """In a fresh user namespace, just entered by this process: no other user exists; raises OSError."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def permitted_capabilities() -> int:
    """A bit per capability that this process may use; raises OSError."""
    buffer = ctypes.create_string_buffer(struct.calcsize("6I"))
    call("capget", struct.pack("Ii", _CAPABILITY_VERSION_3, 0), buffer)
    _, low, _, _, high, _ = struct.unpack("6I", buffer.raw)
    return int(low | high << 32)


def keep_capabilities(kept: Iterable[int]) -> None:
    """Give up every capability but these, for good; raises OSError."""
    bits = sum(1 << capability for capability in kept)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    call("capset", struct.pack("Ii", _CAPABILITY_VERSION_3, 0), struct.pack("6I", low, low, 0, high, high, 0))


def become(user: int, group: int, kept: Iterable[int]) -> None:
    """Change to this user and group without supplementary groups, with these capabilities only; raises OSError.

    The signal that the kernel sends when the parent ends, which every such change takes away, stays.
    """
    parting = ctypes.c_int()
    call("prctl", _PR_GET_PDEATHSIG, ctypes.byref(parting))
    prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    keep_capabilities(kept)
    set_dumpable(True)  # a change of user makes /proc/self unreadable for its own process
    prctl(_PR_SET_PDEATHSIG, parting.value)


def version() -> int:
    """The version of Landlock that the kernel speaks; raises OSError where it speaks none."""
    return call("syscall", _CREATE_RULESET, None, 0, _ASK_VERSION)


def restrict(grants: Iterable[tuple[Path, int]]) -> int:
    """Allow only these rights below these paths, no TCP and no signals to others; returns Landlock's version.

    A path that cannot be granted is left out alone: nothing below it can be reached, and everything else holds. Needs
    `no_new_privs`. Raises OSError where the kernel does not let us.
    """
    spoken = version()
    # All rights on files that this version knows; what is handled and not granted is denied.
    handled = (1 << (13 if spoken < 2 else 14 if spoken < 3 else 15 if spoken < 5 else 16)) - 1
    # The version decides the fields of the structure: TCP since 4, abstract sockets and signals since 6.
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


def _grant(ruleset: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _FOR_FILES
        call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)
