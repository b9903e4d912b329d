"""Probes of dependencies that may hang, with a time limit for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")
#: Shorter than the timeouts of load balancers and orchestrators, which are 5 s or more.
_TIMEOUT_S = 3.0


class Probes:
    """Runs probes in threads; of each name at most one runs at a time."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._threads = CapacityLimiter(8)  # its own: probes must not queue behind handlers

    async def run(self, name: str, probe: Callable[[], T]) -> T:
        """Return what the probe returns, or raise its error or TimeoutError. A running one of this name is joined."""
        running = self._running.get(name)
        if running is None or running.done():
            # Abandoned when the process stops, which must not hang either.
            answering = to_thread.run_sync(probe, limiter=self._threads, abandon_on_cancel=True)
            self._running[name] = running = asyncio.create_task(answering)
            running.add_done_callback(_retrieve)
        async with asyncio.timeout(_TIMEOUT_S):
            answer: T = await asyncio.shield(running)
            return answer


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Retrieve the error of a probe that ends late; asyncio logs errors that are never retrieved."""
    if not task.cancelled():
        task.exception()
