"""Linux calls that the standard library lacks, by ctypes: prctl, unshare, capset; independent of policy."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWIPC, CLONE_NEWNET = 0x10000000, 0x08000000, 0x40000000
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 4, 8, 15, 36, 38
_CAPABILITY_VERSION_3 = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)


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


def allow_no_new_privileges() -> None:
    """From here on no executed file gives more rights; raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may look into this one (`/proc/PID/environ`, ptrace); raises OSError."""
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def end_with_parent(number: int) -> None:
    """This process gets that signal when its parent ends; raises OSError."""
    prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans(adopt: bool) -> None:
    """Whether processes below this one become its children when their own parents end; raises OSError."""
    prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def name_thread(name: str) -> None:
    """What `ps -e` and `top` call this process, where this is its first thread; raises OSError."""
    call("prctl", _PR_SET_NAME, ctypes.c_char_p(name.encode()))


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
    found = ctypes.create_string_buffer(struct.calcsize("6I"))
    call("capget", struct.pack("Ii", _CAPABILITY_VERSION_3, 0), found)
    _, low, _, _, high, _ = struct.unpack("6I", found.raw)
    return int(low | high << 32)


def keep_capabilities(kept: Iterable[int]) -> None:
    """Give up every capability but these, for good; raises OSError."""
    bits = sum(1 << capability for capability in kept)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    call("capset", header, struct.pack("6I", low, low, 0, high, high, 0))


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
