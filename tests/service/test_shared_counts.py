"""Counts of several processes: real processes on one folder, ended in every way, and files that are not whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from service.inference.metrics import CONFIDENCE, ROWS, WIDTH, ModelKey, ServingMetrics
from service.shared_counts import SharedCounts, Snapshot
from tests.helpers.processes import die_with_parent, until

ROOT = Path(__file__).parents[2]
DIGITS = ModelKey("digits", "2", "mdl_a")
#: Counts so many rows for each line that it reads, tells the sum it sees, and at the end stops in good order.
_COUNT = """
import sys
from pathlib import Path
from service.inference.metrics import ServingMetrics
from service.shared_counts import SharedCounts
metrics = ServingMetrics()
metrics.gauge("fedlas_sessions_open", "Open.", lambda: 3)
shared = SharedCounts(Path(sys.argv[1]), metrics, seconds=0.05)
shared.start()
for line in sys.stdin:
    if rows := int(line):
        metrics.of("digits", "2", "mdl_a").request("ok", rows, 0.25)
    print(metrics.totals("digits", "2").rows, flush=True)
shared.stop()
"""
Share = Callable[..., tuple[ServingMetrics, SharedCounts]]


class Counting:
    """One process of a service."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COUNT, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent(),
        )

    def count(self, rows: int) -> int:
        """Count rows; returns how many there are in all processes, as it sees it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{rows}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self, *, force: bool = False) -> None:
        """In good order, or not."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if force:
            self.process.send_signal(signal.SIGKILL)
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


Start = Callable[[], Counting]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start processes on one folder."""
    started: list[Counting] = []

    def one() -> Counting:
        started.append(Counting(tmp_path / "metrics"))
        return started[-1]

    yield one
    for counting in started:
        counting.end(force=True)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """Metrics of this process, on the same folder; written only when somebody asks."""
    started: list[SharedCounts] = []

    def one(*, seconds: float = 3600) -> tuple[ServingMetrics, SharedCounts]:
        metrics = ServingMetrics()
        shared = SharedCounts(tmp_path / "metrics", metrics, seconds=seconds)
        shared.start()
        started.append(shared)
        return metrics, shared

    yield one
    for shared in started:
        shared.stop()


def rows(metrics: ServingMetrics) -> int:
    return metrics.totals("digits", "2").rows


def test_whoever_is_asked_tells_the_sum_and_it_never_falls(start: Start, share: Share) -> None:
    """Three processes count and are asked in turn; one stops, one is killed, one comes: no count is ever lowered."""
    metrics, shared = share()
    first, second = start(), start()
    assert (first.count(1), second.count(20)) == (1, 21)
    assert rows(metrics) == 21
    assert shared.process_ids() == sorted([os.getpid(), first.process.pid, second.process.pid])
    assert [(gauge.name, value) for gauge, value in metrics.everywhere()[1]] == []
    metrics.gauge("fedlas_sessions_open", "Open.", lambda: 1)
    assert [value for _, value in metrics.everywhere()[1]] == [7.0]
    assert second.count(300) == 321
    second.end(force=True)
    assert rows(metrics) == 321
    metrics.of(*DIGITS).request("ok", 4000, 0.25)
    assert rows(metrics) == 4321
    assert first.count(0) == 4321
    first.end()
    third = start()
    assert third.count(50_000) == 54_321
    assert rows(metrics) == 54_321
    assert shared.process_ids() == sorted([os.getpid(), third.process.pid])
    assert [value for _, value in metrics.everywhere()[1]] == [4.0]


def test_what_nobody_asks_for_is_written_soon(share: Share) -> None:
    """A process whose counts change writes them by itself, once, and its last ones when it stops."""
    asked, _ = share()
    counting, shared = share(seconds=0.01)
    counting.of(*DIGITS).request("ok", 5, 0.25)
    until(lambda: rows(asked) == 5, what="written")
    shared.stop()
    counting.of(*DIGITS).request("ok", 5, 0.25)  # too late
    assert rows(asked) == 5


def test_files_that_are_not_whole_are_passed_over(share: Share, tmp_path: Path) -> None:
    """Half a file, another layout, negative counts and things that are no counts are as if they were not there."""
    metrics, _ = share()
    metrics.of(*DIGITS).request("ok", 2, 0.25)
    row = np.zeros(WIDTH)
    row[ROWS] = 10
    good = Snapshot({DIGITS: row}, {"fedlas_sessions_open": 2.0}).encode()
    head, _, numbers = good.partition(b"\n")
    bad = {
        "empty": (b"", "Invalid JSON"),
        "half": (good[:-8], "reshape"),
        "odd": (good[:-3], "multiple"),
        "more": (good + bytes(8), "reshape"),
        "layout": (good.replace(b'"layout":1', b'"layout":0'), "layout"),
        "negative": (head + b"\n" + (-row).tobytes(), "not negative"),
        "nan": (head + b"\n" + np.full(WIDTH, np.nan).tobytes(), "not negative"),
        "list": (b"[1, 2]\n" + numbers, "model_type"),
        "number": (b"7\n" + numbers, "model_type"),
        "short key": (good.replace(b'"2","mdl_a"', b'"2"'), "models"),
        "gauges": (good.replace(b"2.0", b'"x"'), "gauges"),
        "text": (b"\x80\n" + numbers, "Invalid JSON"),
        "deep": (b"[" * 100_000, "Invalid JSON"),
        "infinite": (good.replace(b"2.0", b"1e999"), "finite"),
        "long": (b" " * 5 * 1024**2 + good, "a head of"),
        "crowd": (b'{"layout":1,"gauges":{},"models":[' + b'["","",""],' * 12_000 + b'["","",""]]}\n', "at most"),
    }
    folder = tmp_path / "metrics"
    for name, (content, reason) in bad.items():
        with pytest.raises(ValueError, match=reason):
            Snapshot.decode(content)
        (folder / f"7-{name}.counts").write_bytes(content)
    (folder / "7-whole.new").write_bytes(good)
    assert rows(metrics) == 2
    (folder / "7-half.counts").write_bytes(good)
    assert rows(metrics) == 12


def test_a_file_that_breaks_is_as_it_was(share: Share, tmp_path: Path) -> None:
    """Counts of a living process are not forgotten because its file cannot be read for a while."""
    asked, _ = share()
    counting, shared = share()
    counting.of(*DIGITS).request("ok", 5, 0.25)
    shared.others()
    assert rows(asked) == 5
    path = next(path for path in (tmp_path / "metrics").glob("*.counts") if b"digits" in path.read_bytes())
    path.write_bytes(path.read_bytes()[:40])
    assert rows(asked) == 5


def test_a_cleared_folder_belongs_to_the_next_run(share: Share, tmp_path: Path) -> None:
    """`clear` removes what others left, and who was there before writes nothing any more."""
    folder = tmp_path / "metrics"
    earlier, shared = share()
    earlier.of(*DIGITS).request("ok", 5, 0.25)
    shared.others()
    (folder / "7-1.new").touch()
    (folder / "note.txt").touch()
    SharedCounts.clear(folder)
    assert [path.name for path in folder.iterdir()] == ["note.txt"]
    metrics, _ = share()
    earlier.of(*DIGITS).request("ok", 5, 0.25)
    shared.others()
    shared.stop()
    assert rows(metrics) == 0


def test_a_folder_that_cannot_be_written_stops_nobody(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """The process goes on counting and reporting; the log says why other processes do not see it."""
    metrics, shared = share()
    shared._path(".new").mkdir()
    metrics.of(*DIGITS).request("ok", 5, 0.25)
    assert rows(metrics) == 5
    assert "were not written" in caplog.text
    shared._path(".new").rmdir()


def test_a_snapshot_comes_back_as_it_was() -> None:
    """Names in any script, every number, and gauges."""
    rng = np.random.default_rng(0)
    counts = {ModelKey(name, "1", "mdl_a"): rng.random(WIDTH) for name in ("digits", 'ziffern "ä"\n', "数字")}
    back = Snapshot.decode(Snapshot(counts, {"g": 1.5}).encode())
    assert list(back.counts) == list(counts)
    np.testing.assert_array_equal(list(back.counts.values()), list(counts.values()))
    assert (back.gauges, Snapshot.decode(Snapshot({}, {}).encode())) == ({"g": 1.5}, Snapshot({}, {}))
    assert CONFIDENCE.counts(next(iter(back.counts.values()))).shape == (len(CONFIDENCE.edges) + 1,)
