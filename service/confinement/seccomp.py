"""A seccomp filter: system calls that a process does not need fail from now on, for it and all its descendants.

It is the second wall behind namespaces and Landlock, and the first where neither is permitted. What every filter here
denies: connecting anywhere, leaving the process group (so that killing the group kills all), namespaces and mounts,
looking into other processes, io_uring (which would go round this filter), and rarely used parts of the kernel that
have a history of holes. https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from service.confinement.kernel import call, prctl
from service.confinement.system_calls import COLUMNS, NUMBERS

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_SECCOMP, _SET_FILTER, _OF_ALL_THREADS = (317, 277), 1, 1
_LOAD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_HALF = 0xFFFFFFFF

#: Calls that no process of ours needs.
DANGEROUS = frozenset(
    {
        *("connect", "setsid", "setpgid", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
        *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen"),
        *("fsmount", "fspick", "mount_setattr", "mknodat", "name_to_handle_at", "open_by_handle_at"),
        *("bpf", "perf_event_open", "userfaultfd", "add_key", "request_key", "keyctl", "kexec_load"),
        *("kexec_file_load", "init_module", "finit_module", "delete_module", "acct", "swapon", "swapoff", "reboot"),
        *("quotactl", "settimeofday", "clock_settime", "sethostname"),
    }
)
#: Said to be missing, so that the C library takes the older way, which is filtered.
MISSING = frozenset({"clone3", "io_uring_setup"})

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Condition:
    """A call is allowed where `argument & mask == value`; a mask of more than 32 bits looks at all 64."""

    argument: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Filter:
    """What is decided by the name of a call, and by its arguments; what is not named here has the `other` answer.

    Attributes:
        denied: fail with EPERM.
        allowed: succeed; of use where others fail.
        conditions: call → what its arguments must fulfil; it fails with EACCES otherwise.
        void: call → arguments with any of which it does nothing, and succeeds.
        others: whether calls that are not named are allowed.
    """

    denied: frozenset[str] = DANGEROUS
    allowed: frozenset[str] = frozenset()
    conditions: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)
    void: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)
    others: bool = True


def install(wanted: Filter, *, every_thread: bool = False) -> None:
    """Filter this process and all its descendants from now on; raises OSError where the kernel does not let us.

    Args:
        every_thread: also the threads that run already.
    """
    machine = platform.machine()
    if sys.byteorder != "little" or machine not in COLUMNS:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {machine}")
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _program(wanted, machine))
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept))
    if not every_thread:
        prctl(_PR_SET_SECCOMP, _MODE_FILTER, program)
    elif call("syscall", _SECCOMP[COLUMNS[machine]], _SET_FILTER, _OF_ALL_THREADS, program) != 0:
        raise OSError(errno.EBUSY, "a thread has filters of its own")


def _program(wanted: Filter, machine: str) -> list[Instruction]:
    """The filter: a list of comparisons, each followed by its answer."""
    architecture = _AUDIT_ARCHITECTURES[machine]
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture), _answer(_KILL)]
    program += [(_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":  # the same calls under other numbers
        program += [(_JUMP_AT_LEAST, 0, 1, _X32), _refusal(errno.EPERM)]
    for name, conditions in wanted.void.items():
        if (number := NUMBERS[name][COLUMNS[machine]]) is not None:
            checks = [check for condition in conditions for check in _void(condition)]
            program += [(_JUMP_EQUAL, 0, len(checks), number), *checks, (_LOAD, 0, 0, _NUMBER)]
    answers = {
        **dict.fromkeys(wanted.allowed, _answer(_ALLOW)),
        **dict.fromkeys(wanted.denied, _refusal(errno.EPERM)),
        **dict.fromkeys(MISSING, _refusal(errno.ENOSYS)),
    }
    for name, answer in sorted(answers.items()):
        if (number := NUMBERS[name][COLUMNS[machine]]) is not None:
            program += [(_JUMP_EQUAL, 0, 1, number), answer]
    for name, conditions in wanted.conditions.items():
        if (number := NUMBERS[name][COLUMNS[machine]]) is not None:
            checks = [check for condition in conditions for check in _checks(condition)]
            program += [(_JUMP_EQUAL, 0, len(checks) + 1, number), *checks, _answer(_ALLOW)]
    return [*program, _answer(_ALLOW) if wanted.others else _refusal(errno.EPERM)]


def _checks(condition: Condition) -> Iterator[Instruction]:
    """Refuse where a half of the argument is not what it must be."""
    for half in range(1 if condition.mask <= _HALF else 2):
        mask, value = (condition.mask >> 32 * half) & _HALF, (condition.value >> 32 * half) & _HALF
        yield (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * condition.argument + 4 * half)
        yield (_AND, 0, 0, mask)
        yield (_JUMP_EQUAL, 1, 0, value)
        yield _refusal(errno.EACCES)


def _void(condition: Condition) -> Iterator[Instruction]:
    """Succeed without effect where the lower half of the argument is this."""
    yield (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * condition.argument)
    yield (_AND, 0, 0, condition.mask)
    yield (_JUMP_EQUAL, 0, 1, condition.value)
    yield _refusal(0)


def _answer(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


def _refusal(number: int) -> Instruction:
    return _answer(_ERRNO | number)
