"""Questions to parts that may hang, asked so that whoever asks does not; it does not know the parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter, to_thread

#: Shorter than the timeout of those who probe, which is 5 s or more where somebody has thought about it.
_TIMEOUT_S = 3.0


class Probes:
    """Questions to parts that may hang; of each at most one is under way, however often somebody asks."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._threads = CapacityLimiter(8)  # their own: probes must not queue behind handlers

    async def ask(self, name: str, question: Callable[[], Any]) -> Any:
        """The answer, or whatever error comes instead; TimeoutError if it takes too long. One that hangs is joined."""
        running = self._running.get(name)
        if running is None or running.done():
            # Abandoned when the process stops: that must not hang either.
            answering = to_thread.run_sync(question, limiter=self._threads, abandon_on_cancel=True)
            self._running[name] = running = asyncio.create_task(answering)
            running.add_done_callback(_hear)
        async with asyncio.timeout(_TIMEOUT_S):
            return await asyncio.shield(running)


def _hear(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear an answer that comes late, and an error that nobody hears is logged as a defect."""
    if not task.cancelled():
        task.exception()
