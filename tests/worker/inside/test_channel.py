"""Replies on standard input: one for each time that is asked, none that is no reply, and the end at its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from worker.documents import Reply, RowRange
from worker.inside.channel import ALONE

ROOT = Path(__file__).parents[3]
ASKING = """
import time
from worker.inside.channel import Replies
replies = Replies(lambda event: print(event.model_dump_json(exclude_unset=True), flush=True))
replies.listen()
for _ in range(4):
    try:
        print(repr(replies.ask()), flush=True)
    except ValueError:
        print("no reply", flush=True)
time.sleep(60)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that asks four times, and then is busy."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", ASKING], cwd=ROOT, text=True, **pipes) as process:
        yield process
        process.kill()


def test_a_child_is_told_and_ends_with_its_supervisor(child: subprocess.Popen[str]) -> None:
    """Each ask is answered by a line; no rows and half a line are errors; the end of the pipe ends a busy process."""
    assert child.stdin is not None
    assert child.stdout is not None
    told = [Reply(shard=RowRange(first_row=0, num_rows=9)).model_dump_json(), Reply().model_dump_json()]
    for line, expected in [
        *zip(told, ("Reply(shard=RowRange(first_row=0, num_rows=9))", "Reply(shard=None)"), strict=True),
        ('{"shard": {"first_row": 0, "num_rows": 0}}', "no reply"),
        ('{"shard": ', "no reply"),
    ]:
        assert child.stdout.readline() == '{"asks":"shard"}\n'
        child.stdin.write(f"{line}\n")
        child.stdin.flush()
        assert child.stdout.readline() == f"{expected}\n"
    child.stdin.close()
    assert child.wait(50) == ALONE


def test_a_line_without_end_ends_the_child(child: subprocess.Popen[str]) -> None:
    """A mebibyte without a line's end is nobody's reply."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write("x" * (2**20 + 1))
        child.stdin.flush()
    assert child.wait(50) == ALONE
