"""Processes that compute without end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: One process and its forks, each until it has lost its parent.
_LOOPS = """
import os, sys
count, parent, first = int(sys.argv[1]), int(sys.argv[2]), os.getpid()
for _ in range(count - 1):
    if os.fork() == 0:
        parent = first
        break
while os.getppid() == parent:
    sum(range(100_000))
"""


@contextmanager
def computing(count: int) -> Iterator[None]:
    """So many of them, for the block, in one session, as a build in a terminal is; they end with this process."""
    # Where Linux groups processes by session (`kernel.sched_autogroup_enabled`), these weigh as one.
    loops = subprocess.Popen([sys.executable, "-c", _LOOPS, str(count), str(os.getpid())], start_new_session=True)
    try:
        yield
    finally:
        loops.kill()
        loops.wait()
