"""Endless heads, to a real API process: each is answered, nothing of it stays, and no other request waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers.backends import place
from tests.helpers.live_api import LiveApi, live
from tests.helpers.plain_http import answers, ask, connected, one, received
from tests.helpers.walled import WalledApi, walled

MIB = 1024**2
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
#: A standstill once took 6 s; of processor time, since on a busy machine any answer may have to wait.
STANDSTILL_S = 3.0
KEPT_BYTES = 64 * MIB


@pytest.fixture(scope="module", params=["in one process", "behind a wall"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi | WalledApi]:
    """An API without keys, in both forms; its tests leave nothing behind."""
    data_dir = tmp_path_factory.mktemp("heads") / "data"
    with ExitStack() as stack:
        if request.param == "in one process":
            (found,) = stack.enter_context(live(stack.enter_context(place(data_dir))))
        else:
            found = stack.enter_context(walled(data_dir))
        ask(found.port, HEAD + b"Connection: close\r\n\r\n")
        yield found


def memory(api: LiveApi | WalledApi) -> int:
    """The memory of all its processes now, in bytes."""
    lines = [line for pid in api.pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def worked(api: LiveApi | WalledApi) -> float:
    """The processor seconds of all its processes so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in api.pids]
    return sum(int(user) + int(system) for *_, user, system in (line[:13] for line in fields)) / os.sysconf(
        "SC_CLK_TCK"
    )


@contextmanager
def unharmed(api: LiveApi | WalledApi) -> Iterator[None]:
    """While the block runs another connection is answered without a standstill; afterwards no memory is kept."""
    before, longest, begun, done = memory(api), [0.0], threading.Event(), threading.Event()

    def look() -> None:
        with connected(api.port) as found:
            while not done.is_set():
                began = worked(api)
                found.sendall(HEAD + b"\r\n")
                begun.set()
                assert one(found).status == 200
                longest.append(worked(api) - began)
                time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    begun.wait(60)  # on a busy machine the block may be over before a thread has begun
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert len(longest) > 1
    assert max(longest) < STANDSTILL_S
    assert memory(api) - before < KEPT_BYTES


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (HEAD + b"X-Long: ", (431, "headers_too_large")),
        (HEAD + b"X-Long", (431, "headers_too_large")),
        (b"GET /v1/models?name=", (414, "uri_too_long")),
    ],
    ids=["value", "name", "target"],
)
def test_one_line_without_end(api: LiveApi | WalledApi, head: bytes, told: tuple[int, str]) -> None:
    """64 MiB of a header or target are cut at 64 KiB: answered, and the connection closed; no other waits for it."""
    with unharmed(api):
        (answer,) = ask(api.port, head, *[b"a" * MIB] * 64)
    assert answer.told == told
    assert (answer.headers["connection"], "65536 bytes" in answer.json["detail"]) == ("close", True)
    assert answer.headers["x-request-id"].startswith("req_")


def test_many_lines_without_end(api: LiveApi | WalledApi) -> None:
    """256 MiB of small headers are cut at 64 KiB, and none of them stays."""
    line = b"X-Header: value\r\n"
    with unharmed(api):
        (answer,) = ask(api.port, HEAD, *[line * (MIB // len(line))] * 256)
    assert answer.told == (431, "headers_too_large")


def test_the_limit_is_exact(api: LiveApi | WalledApi) -> None:
    """A head of 65,536 bytes is answered, in one piece and in many, and so is the next; one byte more is not."""
    rest = 64 * 1024 - len(HEAD) - len(b"X: \r\n\r\n")
    for size, status in ((rest, 200), (rest + 1, 431)):
        head = HEAD + b"X: " + b"a" * size + b"\r\n\r\n"
        for pieces in ([head], [head[at : at + 1000] for at in range(0, len(head), 1000)]):
            with connected(api.port) as found:
                for number in range(2 if status == 200 else 1):
                    for piece in pieces:
                        found.sendall(piece)
                    assert one(found).status == status, (size, len(pieces), number)


def test_many_headers(api: LiveApi | WalledApi) -> None:
    """128 headers are read, 129 are not."""
    for number, status in ((127, 200), (128, 431)):
        lines = b"".join(b"X-%d: a\r\n" % at for at in range(number))
        with connected(api.port) as found:
            found.sendall(HEAD + lines + b"\r\n")
            assert one(found).status == status


@pytest.mark.parametrize(
    "between",
    [b"0" * MIB, b"1;" + b"e" * MIB, b"0\r\nX-Trailer: " + b"t" * MIB, b"0\r\n" + b"X-Trailer: t\r\n" * 80_000],
    ids=["size", "extension", "trailer", "trailers"],
)
def test_between_chunks_without_end(api: LiveApi | WalledApi, between: bytes) -> None:
    """Chunk sizes, extensions and trailers are bounded as heads are."""
    with unharmed(api):
        (answer,) = ask(api.port, CHUNKED + b"3\r\nabc\r\n" + between, *[between[-MIB:]] * 30)
    assert answer.told == (400, "malformed_request")
    assert "chunks of the body" in answer.json["detail"]


def test_a_body_of_small_chunks(api: LiveApi | WalledApi) -> None:
    """100,000 chunks of one byte, with an extension each, are a body like any other."""
    with unharmed(api):
        (answer,) = ask(api.port, CHUNKED, b"1;a=b\r\nx\r\n" * 100_000, b"0\r\n\r\n", ends=True)
    assert (answer.status, answer.json["bytes"]) == (201, 100_000)


def test_pipelined_requests_without_end(api: LiveApi | WalledApi) -> None:
    """Behind one that waits, 16 are kept and answered in order; then the connection ends, whatever else came."""
    waiting = b"GET /v1/jobs?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    many = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %d\r\n\r\n"
    with unharmed(api):
        found = ask(api.port, waiting + b"".join(many % number for number in range(50_000)))
    assert 2 <= len(found) < 50_000
    assert [answer.headers["x-request-id"] for answer in found[1:]] == [str(at) for at in range(len(found) - 1)]
    assert {answer.status for answer in found} == {200}
    assert found[-1].headers["connection"] == "close"


def test_thousands_of_half_heads(api: LiveApi | WalledApi) -> None:
    """2,000 connections with half a head of 40 KiB each: beyond 16 MiB in all they are refused, and others answered."""
    with unharmed(api), ExitStack() as stack:
        halves = [stack.enter_context(connected(api.port)) for _ in range(2000)]
        for half in halves:
            half.sendall(HEAD + b"X: " + b"a" * 40 * 1024)
        with connected(api.port) as other:
            other.sendall(HEAD + b"\r\n")
            assert one(other).status == 200
        refused = [answers(received(half))[0] for half in halves[-100:]]
        assert {answer.told for answer in refused} == {(503, "too_many_connections")}
        assert refused[0].headers["retry-after"] == "1"
        halves[0].sendall(b"\r\n\r\n")
        assert one(halves[0]).status == 200
