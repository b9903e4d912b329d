"""Processes and ports as tests meet them: who lives, who started whom, which port is free; it knows no service."""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Below the ports that the system gives to outgoing connections: a client that tries again and again to reach a server
#: that is down may be given its very port, and is then connected with itself, where the server can never return.
_PORTS = range(15_000, 32_000)
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def until(condition: Callable[[], T], *, what: str, seconds: float = 120) -> T:
    """Ask again and again until the answer is true, once more when time is over (machines stand still); returns it."""
    deadline = time.monotonic() + seconds
    while True:
        last = time.monotonic() >= deadline
        if answer := condition():
            return answer
        if last:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def free_port() -> int:
    """A free port of loopback outside of the range of outgoing connections."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port was found")


def die_with_parent(number: int = signal.SIGKILL) -> Callable[[], None] | None:
    """For `preexec_fn`: the kernel sends the signal when the thread that started the process ends."""
    if sys.platform != "linux":
        return None
    return lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def children_of(pid: int) -> set[int]:
    """The living processes that were started by this one."""
    return {child for child, parent in parents().items() if parent == pid}


def descendants_of(pid: int) -> set[int]:
    """All living processes below this one."""
    above = parents()
    found: set[int] = set()
    fresh = {pid}
    while fresh := {child for child, parent in above.items() if parent in fresh} - found:
        found |= fresh
    return found


def is_alive(pid: int) -> bool:
    """True where the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def parents() -> dict[int, int]:
    """Every living process and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state not in "ZX":
                found[int(entry.name)] = int(parent)
    return found
