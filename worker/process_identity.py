"""Process identity: which ids mean the same process, which processes have ended, and what the machine has."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """Names this boot and this process namespace: only within both does a process id always mean the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_mark(pid: int) -> str:
    """A process id with its start, since ids are given again; raises OSError if there is no such process.

    >>> import os
    >>> is_gone(process_mark(os.getpid()))
    False
    """
    if sys.platform != "linux":
        os.kill(pid, 0)
        return str(pid)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return f"{pid} {fields[19]}"


def is_gone(mark: str) -> bool:
    """True where the process that had this mark, on this machine, is no more."""
    pid = mark.partition(" ")[0]
    try:
        return not pid.isdigit() or process_mark(int(pid)) != mark
    except OSError:
        return True


def has_gpu() -> bool:
    """True where an NVIDIA device is here and not hidden; asking CUDA itself would take memory on it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))
