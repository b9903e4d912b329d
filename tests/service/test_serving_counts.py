"""Counts that serving processes send to control: sums never fall, whoever ends, and what is no count is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.predict.engine.metrics import CONFIDENCE, ROWS, WIDTH, ModelKey, merged
from service.serving_counts import ServingCounts, Snapshot

DIGITS = ModelKey("digits", "2", "mdl_a")


@pytest.fixture
def counts(tmp_path: Path) -> ServingCounts:
    """No process has counted anything yet."""
    return ServingCounts(tmp_path / "serving.counts")


def sent(rows: int) -> bytes:
    """The message of a process that has answered so many rows."""
    row = np.zeros(WIDTH)
    row[ROWS] = rows
    return Snapshot({DIGITS: row}, {"fedlas_sessions_open": 2.0}).encode()


def rows(counts: ServingCounts) -> float:
    """The sum over all processes."""
    found = merged(counts.others().counts)
    return float(found[DIGITS][ROWS]) if found else 0.0


def test_sums_never_fall(counts: ServingCounts, tmp_path: Path) -> None:
    """Two processes count; one ends, another takes its place, control is started again: no count is lost or doubled."""
    for number, name in enumerate(("serving-1", "serving-2"), start=1):
        counts.met(name, number)
        counts.tell(name, sent(10**number))
    assert (rows(counts), len(counts.others().gauges)) == (110, 2)
    counts.tell("serving-1", sent(15))
    counts.parted("serving-1")
    assert (rows(counts), len(counts.others().gauges)) == (115, 1)
    counts.met("serving-1", 3)
    counts.tell("serving-1", sent(1000))
    assert rows(counts) == 1115
    again = ServingCounts(tmp_path / "serving.counts")
    assert (rows(again), again.others().gauges) == (1115, [])
    again.met("serving-1", 3)  # the process that it knew
    again.met("serving-2", 4)  # another one
    again.tell("serving-1", sent(1001))
    assert rows(again) == 1116


def test_a_file_that_cannot_be_written_stops_nobody(
    counts: ServingCounts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts are shown all the same; the log says why they would not outlive control."""
    (tmp_path / "serving.new").mkdir()
    counts.met("serving-1", 1)
    counts.tell("serving-1", sent(5))
    assert rows(counts) == 5
    assert "were not written" in caplog.text


def test_what_is_not_whole_changes_nothing(counts: ServingCounts, caplog: pytest.LogCaptureFixture) -> None:
    """Half a message, another layout, negative counts and things that are no counts: as if nothing had come."""
    counts.met("serving-1", 1)
    counts.tell("serving-1", sent(2))
    assert rows(counts) == 2
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
    for content, reason in bad.values():
        with pytest.raises(ValueError, match=reason):
            Snapshot.decode(content)
        counts.tell("serving-1", content)
        assert rows(counts) == 2
    assert "the counts of serving-1 cannot be read" in caplog.text


def test_a_snapshot_comes_back_as_it_was() -> None:
    """Names in any script, every number, and gauges."""
    rng = np.random.default_rng(0)
    counts = {ModelKey(name, "1", "mdl_a"): rng.random(WIDTH) for name in ("digits", 'ziffern "ä"\n', "数字")}
    back = Snapshot.decode(Snapshot(counts, {"g": 1.5}).encode())
    assert list(back.counts) == list(counts)
    np.testing.assert_array_equal(list(back.counts.values()), list(counts.values()))
    assert (back.gauges, Snapshot.decode(Snapshot({}, {}).encode())) == ({"g": 1.5}, Snapshot({}, {}))
    assert CONFIDENCE.counts(next(iter(back.counts.values()))).shape == (len(CONFIDENCE.edges) + 1,)
