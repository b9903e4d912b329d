"""What `benchmarks.weight` sees of a request beside its answer: files, tracebacks, connections without an answer."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.weight.content import NOTHING, Content, repeated, text
from benchmarks.weight.cost import Cost
from benchmarks.weight.disk import Risen, disk_bytes
from benchmarks.weight.families import FAMILIES
from benchmarks.weight.requests import MIB, Attack, Shot, request
from benchmarks.weight.service import end_of_traceback
from benchmarks.weight.wire import Answer, fire

_LOG = """12:00:00 control | INFO listening
12:00:01 control | Traceback (most recent call last):
12:00:01 control |   File "a.py", line 1, in a
12:00:01 control |     raise module.Wrong("12")
12:00:01 control | module.Wrong: 12
12:00:02 control | INFO GET /healthz 200
"""


def test_a_deleted_file_counts_while_it_is_open(tmp_path: Path) -> None:
    """Files of the folder count, and one that is deleted until it is closed; what lies elsewhere does not."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
    with Risen(lambda: disk_bytes(folder, [os.getpid()])) as disk:
        with (folder / "a").open("wb") as deleted, (elsewhere / "b").open("wb") as other:
            for file in (deleted, other):
                file.write(bytes(3 * MIB))
                file.flush()
                Path(file.name).unlink()
            (folder / "kept").write_bytes(bytes(MIB))
            assert disk_bytes(folder, [os.getpid()]) == 4 * MIB
        assert disk_bytes(folder, [os.getpid()]) == MIB
    assert MIB <= disk.by <= 4 * MIB  # it looks now and then, and at the end


def test_the_end_of_a_traceback_is_told() -> None:
    """The last line of the first traceback in a log is told, and nothing where there is none."""
    assert end_of_traceback(_LOG) == "module.Wrong: 12"
    assert end_of_traceback(_LOG.partition("\n")[0]) == ""


@pytest.mark.parametrize(
    ("cost", "misses"),
    [
        (Cost(silent=2, status=200), ["no answer on 2 connections"]),
        (Cost(traceback="module.Wrong: 12"), ["traceback: module.Wrong: 12"]),
        (Cost(disk=5 * MIB, processor=9.0), []),
        (Cost(disk=5 * MIB, processor=9.0, keyless=True), ["5 MiB of files", "9.0 s computed for a stranger"]),
    ],
)
def test_further_misses(cost: Cost, misses: list[str]) -> None:
    """Silence and tracebacks miss a goal of every request, files and much computing that of one without a key."""
    assert cost.misses == misses


def test_a_key_is_seen_in_an_attack() -> None:
    """An attack is without a key where none of its requests shows it."""
    keyless, keyed = Shot(request("GET", "/")), Shot(request("GET", "/", key="secret"))
    assert not Attack([keyless, keyless]).holds(b"secret")
    assert Attack([keyed, keyless]).holds(b"secret")
    assert sum(name.startswith("no key: ") for name in FAMILIES) == 10


def test_what_comes_behind_an_answer_waits_for_it() -> None:
    """Of a shot the second part is sent once something was answered, and whole."""
    with _server(b"HTTP/1.1 401 Unauthorized\r\n\r\n") as (port, received):
        answer = _fired(port, text("head"), behind=repeated(b"body", 1000))
    assert received == [b"head", b"body" * 1000]
    assert (answer.status, answer.sent, answer.silent) == (401, 4004, 0)


def test_a_connection_without_an_answer_is_silent() -> None:
    """A connection that the server closes without a word is counted."""
    with _server(b"") as (port, _):
        answer = _fired(port, text("head"))
    assert (answer.status, answer.silent, answer.open) == (0, 1, 0)


def _fired(port: int, wire: Content, *, behind: Content = NOTHING) -> Answer:
    return fire(port, Shot(wire, behind=behind), patience=10.0, hold=0.1)


@contextmanager
def _server(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server of one connection: it reads a head, answers, and reads the rest; what it has read is filled in."""
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            received.append(connection.recv(1 << 16))
            connection.sendall(answer)
            if answer:
                connection.settimeout(0.5)
                received.append(b"")
                while len(received[1]) < 4000 and (piece := connection.recv(1 << 16)):
                    received[1] += piece

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], received
        thread.join()
