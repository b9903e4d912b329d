"""Processes that are gone, by process id and start, on the same machine only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from service.process_memory import memory_bytes
from worker.sandbox.process import is_gone, machine, process_mark


def test_a_living_process_is_not_gone_and_a_dead_one_is() -> None:
    """A process is gone once it has ended, also while its parent has not asked for its exit code."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = process_mark(child.pid)
    assert not is_gone(mark)
    os.kill(child.pid, signal.SIGSTOP)
    assert not is_gone(mark), "asleep is not dead"
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert is_gone(mark)
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert is_gone(mark)


def test_an_id_that_was_given_again_is_another_process() -> None:
    """A process id with another start belongs to another process."""
    pid, _, start = process_mark(os.getpid()).partition(" ")
    assert is_gone(f"{pid} {int(start) - 1}")


@pytest.mark.parametrize("mark", ["", "x", "999999999 1"])
def test_nonsense_is_gone(mark: str) -> None:
    """A mark that names no process names none that lives."""
    assert is_gone(mark)


def test_children_are_on_the_same_machine() -> None:
    """Processes of one machine agree on its name, and its memory is a sensible number."""
    code = "from worker.sandbox.process import machine; print(machine())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == machine()
    assert memory_bytes() > 100_000_000
