"""Group commit: small creations that arrive at the same moment share one transaction.

A commit waits for the disk, 0.2 ms for a good one and 5 ms for a busy one, and there is one writer at a time: with a
transaction each, no more creations than that could be acknowledged. One that comes alone has a transaction alone. Jobs
share its statements, too: what they have in common is read once, and their rows are written at its end, all of a table
together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from anyio import CapacityLimiter, to_thread

from service.registry.errors import Unavailable
from service.registry.registry import Registry
from service.registry.unit_of_work import UnitOfWork

#: Writes one record and returns it as JSON. It may be called twice, in two transactions of which one is kept.
Make = Callable[[UnitOfWork], str]

#: Creations in one transaction: so many keep other writers waiting for some 30 ms.
_AT_ONCE = 32


class GroupCommit:
    """Collects the creations that arrive while the transaction before them is written."""

    def __init__(self, registry: Registry, turn: CapacityLimiter) -> None:
        self._registry = registry
        self._turn = turn
        self._queued: deque[tuple[Make, asyncio.Future[str]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def create(self, make: Make) -> str:
        """Return what `make` returned, once its transaction is committed; raises what it raised."""
        created: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._queued.append((make, created))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await created

    async def _run(self) -> None:
        while self._queued:
            for created, outcome in await to_thread.run_sync(self._take_and_write, limiter=self._turn):
                if created.done():  # the client has disconnected
                    continue
                if isinstance(outcome, str):
                    created.set_result(outcome)
                else:
                    created.set_exception(outcome)

    def _take_and_write(self) -> list[tuple[asyncio.Future[str], str | Exception]]:
        some = [self._queued.popleft() for _ in range(min(len(self._queued), _AT_ONCE))]
        outcomes = self._write([make for make, _ in some])
        return [(created, outcome) for (_, created), outcome in zip(some, outcomes, strict=True)]

    def _write(self, makes: Sequence[Make]) -> Sequence[str | Exception]:
        try:
            with self._registry.write() as unit:
                return [make(unit) for make in makes]
        except Unavailable as error:
            return [error] * len(makes)
        except Exception as error:
            # One failed, and the whole transaction was rolled back: each is tried alone.
            return [error] if len(makes) == 1 else [outcome for make in makes for outcome in self._write([make])]
