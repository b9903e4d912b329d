"""Memory that requests hold is counted as it arrives, grows and leaves; none of them holds it for ever."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.predict.app import ServingApp
from service.predict.call import InferenceCall
from service.predict.messages import Request
from service.registry.errors import DeadlineExceeded, Overloaded
from tests.helpers.api import Json, MakeApi

#: The largest body.
MAX_BYTES = 10_000


@pytest.fixture
def app(make_api: MakeApi) -> ServingApp:
    """With room for 1,000 bytes."""
    found = make_api(max_inflight_bytes=1000).client.app
    assert isinstance(found, ServingApp)
    return found


def call(
    app: ServingApp, *pieces: bytes, declared: int = 0, until: float = float("inf"), **headers: str
) -> InferenceCall:
    """A request whose body arrives like that, and then no more."""
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if declared:
        given.append((b"content-length", str(declared).encode()))
    left = list(pieces)

    async def receive() -> Json:
        if not left:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or bool(declared)}

    found = app.call(Request.read({"type": "http", "headers": given, "query_string": b""}, receive), "test", "m")
    found.until = until
    return found


@asynccontextmanager
async def arriving(*calls: InferenceCall) -> AsyncIterator[None]:
    """Their bodies, for the length of the block."""
    tasks = [asyncio.ensure_future(one.body(MAX_BYTES, json=False)) for one in calls]
    await asyncio.sleep(0.05)
    yield
    for task, one in zip(tasks, calls, strict=True):
        task.cancel()
        one.release()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def test_what_is_announced_holds_nothing(app: ServingApp) -> None:
    """Clients that announce large bodies and send a byte leave the room to others."""

    async def ask() -> None:
        async with arriving(*(call(app, b"x", declared=900) for _ in range(20))):
            assert await call(app, b"y" * 900).body(MAX_BYTES, json=False) == b"y" * 900

    run(ask)


def test_the_sum_is_bounded_and_one_alone_is_not(app: ServingApp) -> None:
    """Bodies that have arrived count together; a single one is never refused for it."""

    async def ask() -> None:
        first, second = call(app, b"x" * 800), call(app, b"x" * 800)
        await first.body(MAX_BYTES, json=False)
        with pytest.raises(Overloaded):
            await second.body(MAX_BYTES, json=False)
        second.release()
        first.release()
        alone = call(app, b"x" * 5000)
        await alone.body(MAX_BYTES, json=False)
        alone.release()
        assert app.services.memory.held_bytes == 0

    run(ask)


def test_what_becomes_larger_counts_as_such(app: ServingApp) -> None:
    """A body that was inflated, and rows that were decoded from a small file, count with their size."""

    async def ask() -> None:
        packed, other = call(app, gzip.compress(bytes(900)), content_encoding="gzip"), call(app, b"x" * 300)
        content = await packed.decompressed(await packed.body(MAX_BYTES, json=False), MAX_BYTES, json=False)
        assert content == bytes(900)
        with pytest.raises(Overloaded):
            await other.body(MAX_BYTES, json=False)
        other.release()
        packed.release()
        small, other = call(app, b"x" * 10), call(app, b"x" * 300)
        await small.body(MAX_BYTES, json=False)
        await other.body(MAX_BYTES, json=False)
        with pytest.raises(Overloaded):
            await small.run(None, {"x": np.zeros((1, 250), np.float32)}, ())  # type: ignore[arg-type]

    run(ask)


def test_a_body_that_drips_ends_with_the_request_s_time(app: ServingApp) -> None:
    """A piece now and then does not keep a request alive beyond its deadline."""

    async def ask() -> None:
        dripping = call(app, until=asyncio.get_running_loop().time() + 0.2)

        async def receive() -> Json:
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b"x", "more_body": True}

        dripping.request.receive = receive
        with pytest.raises(DeadlineExceeded):
            await dripping.body(MAX_BYTES, json=False)

    run(ask)


def test_threads_are_not_waited_for_beyond_the_deadline(app: ServingApp) -> None:
    """Where all threads are busy the request is answered in time, and its work is not begun any more."""
    begun: list[bytes] = []

    async def ask() -> None:
        loop, go_on = asyncio.get_running_loop(), threading.Event()
        busy = [loop.run_in_executor(app.services.threads._pool, go_on.wait, 60) for _ in range(2)]
        with pytest.raises(DeadlineExceeded):
            await call(app, until=loop.time() + 0.1).read(b"body", begun.append, small=0)
        go_on.set()
        await asyncio.gather(*busy)
        await asyncio.sleep(0.2)
        assert begun == []

    run(ask)


def test_who_waits_for_a_thread_is_counted(make_api: MakeApi) -> None:
    """Beyond the bound requests are asked to come again; an abandoned one leaves nothing in the queue of threads."""
    app = make_api(max_waiting_bodies=4).client.app
    assert isinstance(app, ServingApp)

    async def ask() -> None:
        loop, go_on = asyncio.get_running_loop(), threading.Event()
        busy = [asyncio.ensure_future(call(app).read(b"", lambda _: go_on.wait(60), small=-1)) for _ in range(2)]
        await asyncio.sleep(0.05)
        patient = asyncio.ensure_future(call(app).read(b"patient", bytes.decode, small=0))
        hasty = asyncio.ensure_future(call(app, until=loop.time() + 0.1).read(b"hasty", bytes.decode, small=0))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await call(app).read(b"late", bytes.decode, small=0)
        assert caught.value.retry_after == 1
        with pytest.raises(DeadlineExceeded):
            await hasty
        assert app.services.threads._pool._work_queue.qsize() == 0
        go_on.set()
        assert await patient == "patient"
        await asyncio.gather(*busy)
        assert await call(app).read(b"again", bytes.decode, small=0) == "again"

    run(ask)
