"""Replies to a child: whole lines, in order, and nobody waits for a child that does not read."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from pydantic import BaseModel

from worker.sandbox import process, protocol
from worker.sandbox.protocol import Loaded, Replies

#: A program that repeats every line that it has read, and ends after the one that says so.
_ECHO = """
import sys
for line in sys.stdin:
    print('{"read": %d}' % len(line), flush=True)
    if len(line) < 20:
        break
"""


class Line(BaseModel):
    """Some reply."""

    text: str


def watched(code: str, sent: list[str], *, seconds: float = 60) -> tuple[str | None, list[object]]:
    """How a child that runs this code ends, and what it tells; it is sent all that as soon as it has started."""
    told: list[object] = []
    connected = Replies()
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
    assert child.stdin is not None
    connected.connect(child.stdin.fileno())
    try:
        for text in sent:
            connected.send(Line(text=text))
        stream = process._EventStream(told.append, (), seconds)
        stream._began, stream.loaded = True, Loaded(address_space=0, resident=0, data=0, seconds=0.0)
        stream.deadline = time.monotonic() + seconds
        died = process._watch(child, stream, lambda: None, connected)
    finally:
        connected.disconnect()
        process._kill_group(child)
    connected.send(Line(text="to nobody"))
    return died, told


def test_lines_arrive_whole_and_in_order() -> None:
    """Replies that are longer than a pipe is deep arrive, while the child's own events are passed on."""
    sizes = [10_000, 900_000, 300_000]
    died, told = watched(_ECHO, ["x" * size for size in sizes] + ["end"])
    assert died is None
    assert told == [{"read": size + 12} for size in [*sizes, 3]]


def test_a_child_that_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending returns at once though the pipe is full, and a child that goes on without reading is ended for it."""
    monkeypatch.setattr(protocol, "_PATIENCE_S", 0.2)
    died, _ = watched("import time; time.sleep(600)", ["x" * 900_000] * 3)
    assert died == "it reads no replies"


def test_a_child_that_works_for_too_long_is_ended() -> None:
    """The time of its work is up, whatever it does."""
    assert watched("import time; time.sleep(600)", [], seconds=0.1) == ("timeout", [])


def test_a_child_that_has_closed_its_input_may_go_on() -> None:
    """Input for a child that has closed its side is lost, and the child ends in its own way."""
    code = "import os, time; os.close(0); print('{}', flush=True); time.sleep(0.5)"
    assert watched(code, ["x" * 900_000]) == (None, [{}])


def test_no_reply_is_longer_than_any() -> None:
    """A defect that would flood a child is an error here."""
    with pytest.raises(ValueError, match="longer than"):
        Replies().send(Line(text="x" * 2_000_000))
