"""Requests that wait for outputs are ended by their deadlines and by their clients, all of them by one timer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from service.registry.errors import DeadlineExceeded
from service.serving.deadlines import Waits


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
        assert [found for _, found in (late, soon, gone, there)] == [
            DeadlineExceeded,
            DeadlineExceeded,
            ClientDisconnect,
            {},
        ]
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
