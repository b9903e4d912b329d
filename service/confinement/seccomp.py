"""A seccomp filter: system calls that a process does not need fail from now on, for it and all its descendants.

It is the second wall behind namespaces and Landlock, and the first where neither is permitted. What every filter here
denies: connecting anywhere, leaving the process group (so that killing the group kills all), namespaces and mounts,
looking into other processes, io_uring (which would go round this filter), and rarely used parts of the kernel that
have a history of holes. https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from service.confinement.landlock import call, prctl

#: machine → position in the table
COLUMNS = {"x86_64": 0, "aarch64": 1}

#: system call → its number on x86_64 and on aarch64, which lacks older ones
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # files
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57),
    "lseek": (8, 62), "fstat": (5, 80), "newfstatat": (262, 79), "fcntl": (72, 25), "ioctl": (16, 29),
    "mknodat": (259, 33), "mknod": (133, None), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "truncate": (76, 45), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "inotify_add_watch": (254, 27), "fanotify_init": (300, 262),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "memfd_create": (319, 279), "memfd_secret": (447, 447), "userfaultfd": (323, 282),
    # sockets
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "getsockname": (51, 204), "getpeername": (52, 205),
    "setsockopt": (54, 208), "getsockopt": (55, 209), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "sendmmsg": (307, 269), "shutdown": (48, 210),
    # waiting
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "poll": (7, None), "ppoll": (271, 73), "futex": (202, 98), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "restart_syscall": (219, 128), "sched_yield": (24, 124),
    # time, and what a process learns of itself
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "getrandom": (318, 278),
    "getpid": (39, 172), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getppid": (110, 173),
    "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153),
    # processes, threads and signals
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None), "execve": (59, 221),
    "execveat": (322, 281), "exit": (60, 93), "exit_group": (231, 94), "set_robust_list": (273, 99), "rseq": (334, 293),
    "sched_getaffinity": (204, 123), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sigaltstack": (131, 132), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "kcmp": (312, 272),
    "prlimit64": (302, 261), "setsid": (112, 157), "setpgid": (109, 154), "personality": (135, 92),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "setns": (308, 268),
    "unshare": (272, 97), "io_uring_setup": (425, 425),
    # IPC of System V and POSIX
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    # the machine
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161), "syslog": (103, 116),
}  # fmt: skip


_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_SECCOMP = (317, 277)
_SET_FILTER = 1
_OF_ALL_THREADS = 1
_LOAD = 0x20
_AND = 0x54
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL = 0x80000000
_NUMBER = 0
_ARCHITECTURE = 4
_FIRST_ARGUMENT = 16
#: The newest call in the table, the same on all machines. A newer one may do what is denied under older names, as
#: `setxattrat` (463) does; above all of them, x86-64 has every call a second time (x32).
_NEWEST = 452
_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_HALF = 0xFFFFFFFF
_IOPRIO_WHO_PROCESS = 1

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


#: Limits and priorities are set for the calling thread or process alone: the kernel lets an ordinary user set those of
#: all its processes.
OWN_PRIORITY: Mapping[str, tuple[Condition, ...]] = {
    **dict.fromkeys(
        ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", "prlimit64"),
        (Condition(0, _HALF, 0),),
    ),
    "setpriority": (Condition(0, _HALF, os.PRIO_PROCESS), Condition(1, _HALF, 0)),
    "ioprio_set": (Condition(0, _HALF, _IOPRIO_WHO_PROCESS), Condition(1, _HALF, 0)),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Decisions by the name of a call, and by its arguments; `others` answers calls that are not named here.

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
    """Filter this process, or `every_thread` of it, and its descendants from now on; raises OSError."""
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
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, _AUDIT_ARCHITECTURES[machine]), _answer(_KILL)]
    program += [(_LOAD, 0, 0, _NUMBER)]
    program += [(_JUMP_GREATER, 0, 1, _NEWEST), _refusal(errno.ENOSYS)]
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
