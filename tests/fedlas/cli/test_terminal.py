"""On a terminal: a bar that moves, what Ctrl-C asks, and no colours where none are wanted."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.command_line import COMMAND, environment
from tests.helpers.service import Service

pytestmark = pytest.mark.slow

_MAX_S = 120.0


def _heeding() -> None:
    """A process that was started in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _on_a_terminal() -> None:
    _heeding()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, arguments: list[str], variables: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.said = ""
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm", **variables),
            start_new_session=True,
            preexec_fn=_on_a_terminal,
        )
        os.close(theirs)

    def until(self, pattern: str) -> re.Match[str]:
        """Read until this text comes."""
        deadline = time.monotonic() + _MAX_S
        while (found := re.search(pattern, self.said)) is None:
            assert time.monotonic() < deadline, self.said
            self._read()
        return found

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        """Read all remaining output, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(_MAX_S)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], _MAX_S)[0]:
            return False
        try:
            block = os.read(self._ours, 65536)
        except OSError:  # the other side is closed
            return False
        self.said += block.decode(errors="replace")
        return bool(block)


@contextmanager
def terminal(*arguments: object, **variables: str) -> Iterator[Terminal]:
    """The command for the block."""
    opened = Terminal([str(argument) for argument in arguments], variables)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def running(service: Service, calibrated: Path) -> Iterator[str]:
    """A job that has not ended; after the test it is cancelled and final, so that lists do not change any more."""
    ((model, dataset),) = service.rows("SELECT model_id, dataset_id FROM jobs WHERE publish_as = 'sharp'")
    body = {"model_id": model, "dataset_id": dataset, "budget": {"minutes": 5}, "method": "fedlas"}
    job = service.client.post("/v1/jobs", json=body).raise_for_status().json()["id"]
    yield job
    service.client.post(f"/v1/jobs/{job}/cancel")
    service.ended(job)


@pytest.mark.parametrize(("answer", "cancelled"), [("y\n", True), ("\n", False), ("\x03", False)])
def test_ctrl_c_asks(service: Service, running: str, variables: dict[str, str], answer: str, cancelled: bool) -> None:
    """Only a yes cancels the job; otherwise it goes on, and the command to watch it again is shown."""
    with terminal("jobs", "watch", running, **variables) as shown:
        shown.until(r"━")
        shown.press("\x03")
        shown.until(rf"Cancel {running}\?.*\[y/N\]")
        shown.press(answer)
        assert shown.end() == 130
    assert (service.job(running)["status"] in ("cancelling", "cancelled")) == cancelled
    again = f"{running} continues. To watch it again: fedlas jobs watch {running}"
    assert (again in shown.said, f"{running} is being cancelled." in shown.said) == (not cancelled, cancelled)


def test_ctrl_c_where_nobody_can_be_asked(service: Service, running: str, variables: dict[str, str]) -> None:
    """In a pipeline the job goes on, stdout stays empty, and the exit code is 130."""
    process = subprocess.Popen(
        [*COMMAND, "jobs", "watch", running, "--url", variables["FEDLAS_URL"]],
        preexec_fn=_heeding,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=_MAX_S)
    assert (process.returncode, said) == (130, "")
    assert told.splitlines()[-1].endswith(f"fedlas jobs watch {running} --url={variables['FEDLAS_URL']}")
    assert service.job(running)["status"] not in ("cancelling", "cancelled")  # it may have ended meanwhile


@pytest.mark.parametrize(("answer", "code", "said"), [("y", 0, "smallest provable gain"), ("n", 1, "seen_by_model=no")])
def test_who_says_nothing_of_seen_rows_is_asked(
    service: Service, files: Path, tmp_path: Path, variables: dict[str, str], answer: str, code: int, said: str
) -> None:
    """Rows without splits: yes sends them once more as unseen; no is refused with both ways out."""
    model, rows = files / "sharp.onnx", tmp_path / "rows.npz"
    arrays = np.load(files / "many.npz")
    np.savez(rows, **{name: arrays[name] for name in arrays.files if name != "split"})
    with terminal("calibrate", model, rows, "--method", "temperature", "--dry-run", **variables) as shown:
        shown.until(r"trained on none of these rows\?.*\[y/N\]")
        shown.press(f"{answer}\n")
        assert shown.end() == code, shown.said
    assert said in " ".join(shown.said.split())


@pytest.mark.parametrize("no_colour", [False, True])
def test_a_table_on_a_terminal(calibrated: Path, variables: dict[str, str], no_colour: bool) -> None:
    """A heading, times of this place, and colours unless NO_COLOR says otherwise."""
    colour = {"NO_COLOR": "1"} if no_colour else {}
    with terminal("jobs", "ls", "-n", 1, COLUMNS="120", **variables, **colour) as shown:
        assert shown.end() == 0
    assert re.search(r"ID.*STATUS.*VERDICT.*CREATED", shown.said)
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", shown.said)
    assert not re.search(r"\x1b\[(3|9)\d", shown.said) or not no_colour
