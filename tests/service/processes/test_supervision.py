"""Child processes are started again, whatever has ended them, and at a bounded rate."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from service.processes import child_process
from service.processes.child_process import ChildProcess
from service.processes.supervision import tend
from tests.helpers.processes import until


def test_a_process_that_cannot_be_started_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again a second later; a full disk, on which its id finds no room, keeps none from running."""
    child = ChildProcess("worker", [sys.executable, "-c", ""], dict(os.environ), tmp_path / "none" / "worker.pid")
    tend([child])
    assert child.process is not None
    assert child.process.wait(60) == 0
    with monkeypatch.context() as patched:
        patched.setattr(child, "started_at", 0.0)
        patched.setattr(child, "_started", lambda *_: os.open(tmp_path / "nothing", os.O_RDONLY))
        tend([child])
    log = capsys.readouterr().out
    assert "its id" in log
    assert "cannot be started now, and is tried again" in log
    ended = child.process
    until(lambda: tend([child]) or child.process is not ended, seconds=60, what="it is started again")
    child.process.wait(60)


def test_a_process_that_gives_up_at_once_is_tried_less_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second at first, every ten seconds at last; one that is killed, or has run for a while, at once again."""
    clock = [100.0]
    monkeypatch.setattr(child_process.time, "monotonic", lambda: clock[0])
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    child = ChildProcess("worker", command, dict(os.environ), tmp_path / "worker.pid")
    pauses = []
    child.start()
    for _ in range(6):
        assert child.process is not None
        before, began = child.process, clock[0]
        before.wait(60)
        while child.process is before:
            clock[0] += 0.25
            tend([child])
        pauses.append(clock[0] - began)
    assert pauses == [1, 2, 4, 8, 10, 10]
    assert child.process is not None
    child.process.wait(60)
    clock[0] += 60
    before = child.process
    tend([child])
    assert child.process is not before
    child.process.wait(60)
    clock[0] += 1
    tend([child])
    child.process.wait(60)
    assert child.started_at == clock[0]


def test_a_process_that_its_watchdog_ends_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it stood is in the log, and where all its threads stood in a file."""
    hanging = "import faulthandler, time\ndef stand():\n  time.sleep(60)\n"
    hanging += "print('begun', flush=True)\nfaulthandler.dump_traceback_later(0.1, exit=True)\nstand()"
    child = ChildProcess("api", [sys.executable, "-c", hanging], dict(os.environ), tmp_path / "api.pid")
    child.start()
    assert child.process is not None
    assert child.process.wait(60) == 1
    log = ""

    def is_passed_on() -> bool:
        nonlocal log
        log += capsys.readouterr().out
        return log.count("\n") > 1

    until(is_passed_on, what="its log is passed on")
    begun, ended = (line.partition("| ")[2] for line in log.splitlines())
    assert begun == "begun"
    assert ended == (
        "ended: its event loop stood still, in stand (<string>, line 3); "
        f"where all threads stood: {tmp_path / 'api.stacks'}"
    )
    assert "most recent call first" in (tmp_path / "api.stacks").read_text()
