"""Sleeping and blocking work, for code that waits and for code that awaits."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def async_sleep(seconds: float) -> None:
    """Let other tasks run for so long, under asyncio or trio."""
    import anyio

    await anyio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Wait for so long."""
    time.sleep(seconds)


async def async_in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a call that blocks, in a thread beside the event loop."""
    from anyio import to_thread

    return await to_thread.run_sync(partial(call, *args, **kwargs))


def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of the call; the caller waits anyway."""
    return call(*args, **kwargs)
