"""Processes that are killed at a chosen system call, where the kernel stops them as it does for a debugger."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

from tests.helpers import ROOT
from tests.helpers.command_line import environment

_PTRACE_SYSCALL = 24
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
#: The program that is killed, once it has imported all that it needs.
_CHILD = """
import ctypes, os, signal, sys
import alembic.command, service.processes.supervision, service.registry.backups
from service.cli import main
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0, "this process may not be traced"
os.kill(os.getpid(), signal.SIGSTOP)
code = main(sys.argv[1:])
os._exit(code)
"""


def run_until(stop: int | None, *arguments: str) -> int:
    """Run a command of the service and kill it at its so many-th stop (two for each call); returns how many it made."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, *arguments], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
    )
    os.waitpid(child.pid, 0)
    made, ended = 0, False
    while made != stop and not ended:
        assert _LIBC.ptrace(_PTRACE_SYSCALL, child.pid, None, None) == 0, os.strerror(ctypes.get_errno())
        _, status = os.waitpid(child.pid, 0)
        ended = os.WIFEXITED(status)
        made += not ended
    if ended:
        assert status == 0
    else:
        os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return made
