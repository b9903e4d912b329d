"""Sleeping and blocking work, for code that waits and for code that awaits, and warnings of what a wait is for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
#: Told, in a sentence, what keeps a record from going on that is waited for.
OnWarning = Callable[[str], object]


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


def warn_of(obstacle: str | None, record_id: str, told: MutableMapping[str, str], warn: OnWarning) -> None:
    """Tell what keeps a record from going on, once for each reason: that it lasts longer is none.

    Args:
        told: the reasons that were told and still hold, by record.
    """
    reason = re.sub(r"\d+ (s|min)", "", obstacle or "")
    if not reason:
        told.pop(record_id, None)
    elif reason != told.get(record_id):
        told[record_id] = reason
        warn(f"{record_id}: {obstacle}")
