"""Requests that wait are ended by deadlines and clients; compressed bodies never become more than is allowed."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from service.predict.messages import Waits, inflated
from service.registry.errors import DeadlineExceeded, InvalidRequest, TooLarge

CONTENT = b'{"inputs": []}' + bytes(range(256)) * 40
FORMS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Identity": bytes, "": bytes}


async def silent() -> Any:
    """A client that sends nothing more."""
    await asyncio.sleep(60)


async def leaving() -> Any:
    """A client that disconnects soon."""
    await asyncio.sleep(0.05)
    return {"type": "http.disconnect"}


def test_each_request_ends_at_its_own_time() -> None:
    """A later request may have the earlier deadline; outputs that are there in time are returned."""

    async def ask() -> None:
        waits, loop = Waits(), asyncio.get_running_loop()
        now = loop.time()

        async def seconds(receive: Any, after: float, future: asyncio.Future[Any]) -> tuple[float, Any]:
            began = time.perf_counter()
            try:
                found: Any = await waits.outputs(future, receive, until=now + after)
            except (DeadlineExceeded, ClientDisconnect) as error:
                found = type(error)
            return time.perf_counter() - began, found

        answered = loop.create_future()
        loop.call_later(0.1, answered.set_result, {})
        late, soon, gone, there = await asyncio.gather(
            seconds(silent, 0.5, loop.create_future()),
            seconds(silent, 0.005, loop.create_future()),
            seconds(leaving, 60, loop.create_future()),
            seconds(silent, 60, answered),
        )
        found = [what for _, what in (late, soon, gone, there)]
        assert found == [DeadlineExceeded, DeadlineExceeded, ClientDisconnect, {}]
        assert soon[0] < gone[0] < late[0]
        assert late[0] >= 0.45

    asyncio.run(ask())


def test_many_requests_take_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand requests that are answered at once set no timers beside the first."""

    async def ask() -> int:
        waits, loop, timers = Waits(), asyncio.get_running_loop(), 0
        at = loop.call_at

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal timers
            timers += 1
            return at(*args, **options)

        monkeypatch.setattr(loop, "call_at", counted)
        for _ in range(1000):
            future = loop.create_future()
            future.set_result({})
            await waits.outputs(future, silent, until=loop.time() + 60)
        return timers

    began = time.perf_counter()
    assert asyncio.run(ask()) <= 2 + (time.perf_counter() - began) / 0.02


def raw_deflate(content: bytes) -> bytes:
    """Without zlib's wrapping, as some clients send it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize("encoding", FORMS)
def test_what_was_compressed_comes_back(encoding: str) -> None:
    """Every encoding, up to exactly the limit."""
    body = FORMS[encoding](CONTENT)
    assert inflated(body, encoding, limit=len(CONTENT)) == CONTENT
    with pytest.raises(TooLarge, match=f"more than {len(CONTENT) - 1} bytes"):
        inflated(body, encoding, limit=len(CONTENT) - 1)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_deflate_with_and_without_wrapping(level: int) -> None:
    """Both readings of the standard are understood, whatever was compressed and how."""
    for content in (CONTENT, b"", b"\x78\x9c", bytes(1000)):
        packer = zlib.compressobj(level, zlib.DEFLATED, -15)
        assert inflated(packer.compress(content) + packer.flush(), "deflate", limit=20_000) == content
        assert inflated(zlib.compress(content, level), "deflate", limit=20_000) == content


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_is_damaged_is_refused(encoding: str) -> None:
    """A body that is cut off anywhere, followed by more, or of another kind is no body."""
    body = FORMS[encoding](CONTENT)
    for broken, words in (
        (b"", "cut off"),
        (body[:1], "cut off|is not"),
        (body[: len(body) // 2], "cut off"),
        (body[:-1], "cut off"),
        (body + b"\0", "1 bytes follow"),
        (body + body, "bytes follow"),
        (CONTENT, "is not"),
        (body[:-1] + bytes([body[-1] ^ 1]), "is not"),
    ):
        with pytest.raises(InvalidRequest, match=words) as caught:
            inflated(broken, encoding, limit=20_000)
        assert caught.value.code == "invalid_encoding"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, deflate", "x" * 1000])
def test_unknown_encodings(encoding: str) -> None:
    """An unknown encoding is named, with the known ones."""
    with pytest.raises(InvalidRequest, match="known are gzip, deflate and identity") as caught:
        inflated(CONTENT, encoding, limit=20_000)
    assert caught.value.code == "unsupported_encoding"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw"])
def test_a_bomb_takes_no_memory(encoding: str) -> None:
    """A hundred kilobytes that would become a hundred megabytes are refused after the first of them."""
    zeros = bytes(100 << 20)
    body = raw_deflate(zeros) if encoding == "raw" else FORMS[encoding](zeros)
    del zeros
    assert len(body) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflated(body, "deflate" if encoding == "raw" else encoding, limit=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
