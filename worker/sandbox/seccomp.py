"""A seccomp filter: system calls that neither opening an upload nor training needs fail from now on.

It is the second wall behind namespaces and Landlock, and the first where neither is permitted. What it denies: any
network socket, connecting anywhere, leaving the process group (so that killing the group kills all), namespaces and
mounts, looking into other processes, io_uring (which would go round this filter), and rarely used parts of the
kernel that have a history of holes. https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

from worker.sandbox.kernel import prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_AF_UNIX = 1
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_X32 = 0x40000000

#: machine → (audit architecture, position in the table below)
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: system call → its number on x86_64 and on aarch64
_DENIED = {
    "connect": (42, 203), "setsid": (112, 157), "setpgid": (109, 154),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "mknodat": (259, 33),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161),
}  # fmt: skip
#: Said to be missing, so that the C library takes the older way, which is filtered.
_MISSING = {"clone3": (435, 435), "io_uring_setup": (425, 425)}
_SOCKET, _CLONE = (41, 198), (56, 220)

Instruction = tuple[int, int, int, int]


def install() -> None:
    """Filter this process and all its descendants from now on; raises OSError where the kernel does not let us."""
    if sys.byteorder != "little" or platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {platform.machine()}")
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _program(platform.machine()))
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept))
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, program)


def _program(machine: str) -> list[Instruction]:
    """The filter: a list of comparisons, each followed by its answer."""
    architecture, column = _MACHINES[machine]
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture), _answer(_KILL)]
    program += [(_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":  # the same calls under other numbers
        program += [(_JUMP_AT_LEAST, 0, 1, _X32), _refusal(errno.EPERM)]
    for numbers in _DENIED.values():
        program += [(_JUMP_EQUAL, 0, 1, numbers[column]), _refusal(errno.EPERM)]
    for numbers in _MISSING.values():
        program += [(_JUMP_EQUAL, 0, 1, numbers[column]), _refusal(errno.ENOSYS)]
    program += _unless_first_argument(_CLONE[column], (_JUMP_ANY_BIT, 1, 0, _NEW_NAMESPACES))
    program += _unless_first_argument(_SOCKET[column], (_JUMP_EQUAL, 0, 1, _AF_UNIX))
    return [*program, _answer(_ALLOW)]


def _unless_first_argument(number: int, test: Instruction) -> list[Instruction]:
    """Refuse this call where the test of its first argument jumps to the second of the two answers that follow."""
    return [
        (_JUMP_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        test,
        _answer(_ALLOW),
        _refusal(errno.EACCES),
    ]


def _answer(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


def _refusal(number: int) -> Instruction:
    return _answer(_ERRNO | number)
