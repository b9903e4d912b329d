"""The run in which a process ends stands in memory that its parent reads, and how it ended tells who is at fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from service.heartbeat import HUNG
from service.ipc import run_marks
from service.ipc.run_marks import RunMarks, RunRecord
from service.process_memory import oom_kills
from service.processes.child_process import fault

LOOP, OTHER, THIRD = "10" * 32, "20" * 32, "30" * 32
#: A process whose event loop runs one model, and another thread a second one, which may crash.
_PROCESS = """
import os, signal, sys, threading, time
from service.ipc.run_marks import RunMarks
marks = RunMarks(int(sys.argv[1]))
marks.of("10" * 32).begin()
done = marks.of("30" * 32)
done.end(done.begin())
def run():
    marks.of("20" * 32).begin()
    if sys.argv[2]:
        signal.raise_signal(int(sys.argv[2]))
    print(flush=True)
threading.Thread(target=run).start()
time.sleep(60)
"""


@pytest.fixture
def record() -> Iterator[RunRecord]:
    """The memory of the marks of one process."""
    with closing(RunRecord()) as made:
        yield made


def process(record: RunRecord, number: int | None) -> int:
    """How a process has ended whose second model raises this signal, or which is killed while it runs that."""
    arguments = [str(record.fileno()), "" if number is None else str(number)]
    with subprocess.Popen(
        [sys.executable, "-c", _PROCESS, *arguments], pass_fds=[record.fileno()], stdout=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        if number is None:
            started.kill()
        return started.wait(60)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGILL, signal.SIGBUS])
def test_a_signal_is_the_deed_of_the_model_in_its_thread(record: RunRecord, number: signal.Signals) -> None:
    """The thread that got the signal names its model, though another runs beside it, and the notes have its stack."""
    found = fault(process(record, number), record.read(), out_of_memory=False)
    assert found is not None
    assert (found.how, found.models, found.certain) == (number.name, [OTHER], True)
    assert "Fatal Python error" in record.notes()[0]


def test_what_a_killed_process_ran_is_suspect_where_memory_ran_out(record: RunRecord) -> None:
    """Whoever else sends SIGKILL accuses no model, nor does an end that was asked for."""
    code = process(record, None)
    marked = record.read()
    assert marked == ({LOOP, OTHER}, {LOOP}, None)
    assert fault(code, marked, out_of_memory=False) is None
    found = fault(code, marked, out_of_memory=True)
    assert found is not None
    assert (found.models, found.certain) == ([LOOP, OTHER], False)
    for ended in (0, 4, 70, -signal.SIGTERM, -signal.SIGINT):
        assert fault(ended, marked, out_of_memory=True) is None
    hung = fault(-HUNG, marked, out_of_memory=False)
    assert hung is not None
    assert (hung.models, hung.certain) == ([LOOP], False)
    unknown = fault(-signal.SIGSEGV, marked, out_of_memory=False)  # no stack was left to note who has caught it
    assert unknown is not None
    assert (unknown.models, unknown.certain) == ([LOOP, OTHER], False)


def test_a_process_that_ran_nothing_accuses_nobody(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has caught a signal in a thread that ran no model is not sure; lies are digests, and a few of them."""
    assert fault(-signal.SIGSEGV, record.read(), out_of_memory=False) is None
    monkeypatch.setattr(run_marks.faulthandler, "enable", lambda file: None)  # this process keeps its own
    marks = RunMarks(record.fileno())
    places = [marks.of(LOOP).begin() for _ in range(100)]
    assert places.count(None) == 36  # beyond 64 no run is marked
    os.pwrite(record.fileno(), b"Current thread 0x1 (most recent call first):\n", 4096)
    outside = fault(-signal.SIGSEGV, record.read(), out_of_memory=False)
    assert outside is not None
    assert (outside.models, outside.certain) == ([LOOP], False)
    for place in places:
        marks.of(LOOP).end(place)
    assert record.read().models == frozenset()
    os.pwrite(record.fileno(), os.urandom(65536), 0)
    assert len(record.read().models) == 64
    assert isinstance(record.notes(), list)
    with pytest.raises(PermissionError):
        os.ftruncate(record.fileno(), 10**9)


def test_threads_share_the_places(record: RunRecord) -> None:
    """None is lost, and none given twice, however many leave marks at once."""
    marks = RunMarks()

    def run(digest: str) -> None:
        mark = marks.of(digest)
        for _ in range(2000):
            mark.end(mark.begin())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, (LOOP, OTHER, THIRD)))
    assert len({marks.of(LOOP).begin() for _ in range(64)} - {None}) == 64


def test_what_the_kernel_has_killed_for_memory(tmp_path: Path) -> None:
    """The kernel's count of processes killed for memory is read where it has one."""
    assert oom_kills() >= 0
    figures = tmp_path / "vmstat"
    assert oom_kills(figures) == 0
    figures.write_text("nr_free_pages 1\noom_kill 12\nnuma_hit 3\n")
    assert oom_kills(figures) == 12
