"""A process behind the wall: it gives up all that it does not need, and then becomes a serving process or the acceptor.

`python -m service.processes.confined serving|acceptor …`, started by `fedlas serve`. Serving processes keep the
served folder, the acceptor its sockets.
https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import resource
import socket
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from fedlas.extras import has_gpu
from service.confinement import landlock
from service.confinement.confinement import CONTROLS, DEVICES, SYSTEM, Policy, confine, lacking, libraries, packages
from service.confinement.seccomp import DANGEROUS, OWN_PRIORITY, Condition, Filter
from service.process_memory import cgroup_limits

_MAX_FILES = 65_536  # each connection is one
_MAX_THREADS = 4096
_ACCEPTOR_BYTES = 1024**3
#: The limit of a file in memory: no other limit counts it, and no message is larger.
_MEMORY_FILE_BYTES = 64 * 1024**2
#: Figures of the kernel that the C library, ONNX Runtime and our own limits read.
_FIGURES = (
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems", "/proc/sys/vm"),
    *("/sys/devices", "/sys/bus", "/sys/class"),
)
#: Files that CUDA reads besides, where there is a GPU.
_FIGURES_OF_GPUS = ("/proc/driver", "/proc/devices", "/proc/modules", "/sys")
_IMPORTED = (".py", ".so", ".pyc", ".zip", ".dist-info", ".egg-info")

_HALF = 0xFFFFFFFF
_POINTER = 0xFFFFFFFFFFFFFFFF
_NEW_NAMESPACES = 0x7E020000
_CLONE_THREAD = 0x00010000
_SOCK_STREAM = 1
_SOCKET_TYPES = 0xF
#: Requests of ioctl: a socket that does not wait, and the unread bytes of one. What else their common bits permit
#: asks for the settings of a terminal.
_FIONBIO = 0x5421
_TIOCOUTQ = 0x5411
_PROT_EXEC = 4
_F_SETOWN_EX = 15
_FIOASYNC = 0x5452
_FIOSETOWN = 0x8901
_SIOCSPGRP = 0x8902

_SIGNALS = frozenset({"kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal"})
#: The kernel signals on behalf of a file, to the process set for it.
_SIGNALS_OF_FILES = {
    "fcntl": tuple(Condition(1, _HALF, command) for command in (fcntl.F_SETOWN, fcntl.F_SETSIG, _F_SETOWN_EX)),
    "ioctl": tuple(Condition(1, _HALF, command) for command in (_FIOASYNC, _FIOSETOWN, _SIOCSPGRP)),
}
_PROGRAMS = frozenset({"execve", "execveat", "fork", "vfork"})
_SERVERS = frozenset({"socket", "bind", "listen", "accept", "accept4"})
_CUDA_SERVES = frozenset({"socket", "bind", "listen"})
_SO_PASSCRED = 16
_OWNERSHIP = frozenset({"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "mknod"})
#: Before its third version Landlock lets a file be emptied, and it never minds the others.
_ALTERATION = frozenset(
    {
        *("truncate", "utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr"),
        *("removexattr", "lremovexattr", "fremovexattr"),
    }
)
_SHARING = frozenset({"shmget", "shmat", "semget", "msgget", "mq_open", "inotify_add_watch", "fanotify_init"})
_RARE = frozenset({"process_madvise", "kcmp", "personality", "memfd_secret", "syslog", "sendmmsg"})
#: The exit code of a process that lacks a protection which this machine has, or must have.
UNPROTECTED = 4
_MODULES = {"serving": "service.processes.serving", "acceptor": "service.acceptor.acceptor"}


def serving(folder: Path) -> Policy:
    """Policy of a process that runs models: it reads the served folder and the interpreter.

    It writes no file.
    """
    denied = DANGEROUS | _SIGNALS | _PROGRAMS | _SERVERS | _OWNERSHIP | _ALTERATION | _SHARING | _RARE
    of_cuda = _of_cuda() if has_gpu() else {}
    return Policy(
        grants=[*_read_by_serving(folder)],
        calls=Filter(
            denied=denied - (_CUDA_SERVES if of_cuda else frozenset()),
            conditions={
                "clone": (Condition(0, _NEW_NAMESPACES | _CLONE_THREAD, _CLONE_THREAD),),
                "tgkill": (Condition(0, _HALF, os.getpid()),),
                **_of_connections(),
                **OWN_PRIORITY,
                "socketpair": (Condition(1, _SOCKET_TYPES, _SOCK_STREAM),),
                **of_cuda,
            },
            void=_SIGNALS_OF_FILES,
        ),
        needed=[*libraries(), *packages(), folder],
        most_files=_MAX_FILES,
        most_processes=_MAX_THREADS,
        limits={resource.RLIMIT_FSIZE: _MEMORY_FILE_BYTES},
    )


def adopting() -> Filter:
    """Filter of a process that adopts connections, once its event loop has made its own sockets.

    Nothing that it shares with others waits, and nothing becomes what waits: neither library that event loops are made
    of could tell.
    """
    return Filter(
        denied=frozenset(),
        void={"ioctl": (Condition(1, _HALF, _FIONBIO),), "fcntl": (Condition(1, _HALF, fcntl.F_SETFL),)},
    )


def acceptor() -> Policy:
    """Policy of the acceptor, which has loaded everything: it opens no file, starts no thread, and makes few calls."""
    return Policy(
        grants=(),
        calls=Filter(
            denied=DANGEROUS,
            allowed=frozenset(
                {
                    *("accept", "accept4", "recvfrom", "recvmsg", "getsockopt"),
                    *("getsockname", "getpeername"),
                    *("epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2"),
                    *("poll", "ppoll", "read", "readv", "write", "writev", "pread64", "close", "lseek", "fstat"),
                    *("fcntl", "munmap", "mremap", "madvise", "brk", "futex", "getrandom", "sched_yield"),
                    *("nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday"),
                    *("restart_syscall", "getpid", "gettid", "getppid", "getuid", "geteuid", "getrusage", "times"),
                    *("sysinfo", "sched_getaffinity", "sigaltstack", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn"),
                    *("set_robust_list", "rseq", "exit", "exit_group"),
                }
            ),
            conditions={
                "tgkill": (Condition(0, _HALF, os.getpid()),),
                **_of_connections(),
                "prlimit64": OWN_PRIORITY["prlimit64"],
                "shutdown": (Condition(1, _HALF, socket.SHUT_WR),),  # which the listener does not mind
                "ioctl": (Condition(1, _HALF & ~(_FIONBIO ^ _TIOCOUTQ), _FIONBIO & _TIOCOUTQ),),
                "mmap": (Condition(2, _PROT_EXEC, 0),),
                "mprotect": (Condition(2, _PROT_EXEC, 0),),
            },
            void=_SIGNALS_OF_FILES,
            others=False,
        ),
        most_files=_MAX_FILES,
        limits={resource.RLIMIT_FSIZE: 0, resource.RLIMIT_DATA: _ACCEPTOR_BYTES},
    )


def _of_connections() -> dict[str, tuple[Condition, ...]]:
    """Conditions: what is sent goes where its socket leads; options are TCP's: others make a socket wait at its end."""
    return {
        "sendto": (Condition(4, _POINTER, 0),),
        "sendmsg": (Condition(2, socket.MSG_FASTOPEN, 0),),
        "setsockopt": (Condition(1, _HALF, socket.IPPROTO_TCP),),
    }


def _of_cuda() -> dict[str, tuple[Condition, ...]]:
    """CUDA begins by listening on a local socket of its own, `@cuda-uvmfd-…`; nothing is accepted, nothing connects."""
    return {
        "socket": (Condition(0, _HALF, socket.AF_UNIX),),
        # Levels up to TCP's, and of their options SO_PASSCRED, and the first: TCP_NODELAY.
        "setsockopt": (Condition(1, _HALF & ~7, 0), Condition(2, _HALF & ~(_SO_PASSCRED | socket.TCP_NODELAY), 0)),
    }


def _read_by_serving(folder: Path) -> Iterator[tuple[Path, int]]:
    # Without Python's and the system's programs: there is nothing to run.
    yield from ((Path(path), landlock.READ) for path in SYSTEM if path != "/etc/passwd")
    for path in libraries():
        yield from _imported(path, folder)
    yield from ((package, landlock.READ) for package in packages())
    figures = (*map(Path, (*_FIGURES, *DEVICES)), *cgroup_limits(), _own_figures())
    yield from ((path, landlock.READ) for path in figures)
    yield Path("/dev/null"), landlock.DEVICE
    if gpus := list(Path("/dev").glob("nvidia*")):
        yield from ((path, landlock.DEVICE) for path in gpus)
        yield from ((Path(path), landlock.READ) for path in _FIGURES_OF_GPUS)
    yield folder, landlock.READ


def _imported(path: Path, folder: Path) -> Iterator[tuple[Path, int]]:
    """An environment as a whole; of any other folder only what can be imported: people keep settings beside code.

    A right to list holds for all folders below. Where the data folder is one of them there is none, and what is
    imported from there was looked up before.
    """
    inside = any(path.is_relative_to(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix))
    if inside and not folder.is_relative_to(path):
        yield path, landlock.READ
        return
    if not folder.is_relative_to(path):
        yield path, landlock.LIST
    for entry in path.iterdir() if path.is_dir() else [path]:
        if entry.suffix in _IMPORTED or os.path.isfile(entry / "__init__.py"):  # False for a folder closed to this user
            yield entry, landlock.READ


def _own_figures() -> Path:
    """`/proc` of this process, and of no other.

    The folder stays open: Landlock's grant is for the inode, which the kernel would make anew.
    """
    os.open("/proc/self", os.O_PATH)
    return Path("/proc/self").resolve()


def main() -> int:
    """Confine this process and run it; before that nothing of strangers was read."""
    parser = argparse.ArgumentParser(prog="python -m service.processes.confined", allow_abbrev=False)
    parser.add_argument("process", choices=_MODULES)
    parser.add_argument("--served", type=Path, help="the served folder")
    parser.add_argument("--expect", action="append", default=[], choices=CONTROLS, help="do not begin without this")
    parser.add_argument("--trial", action="store_true", help="of serving: say what this machine permits, and end")
    options, arguments = parser.parse_known_args()
    if options.process == "serving":
        # With a single thread: libraries start theirs later.
        report = confine(serving(options.served))
        arguments += ["--served", str(options.served)]
        if options.trial:
            print(json.dumps(report))
            return 0
    module = import_module(_MODULES[options.process])
    if options.process == "acceptor":
        # Once it is loaded it needs no file any more.
        report = confine(acceptor())
    if missing := lacking(report, options.expect):
        print(f"CRITICAL a protection that this machine has does not hold here: {'; '.join(missing)}", flush=True)
        return UNPROTECTED
    sys.argv = [module.__name__, *arguments]
    return int(module.main())


if __name__ == "__main__":
    sys.exit(main())
