"""Long polls: one loop asks the registry for everybody who waits, so that a waiting client holds no thread."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool

from service.registry.contract import FINAL
from service.registry.errors import Unavailable
from service.registry.unit_of_work import Registry

_INTERVAL_S = 0.2


class Waiting:
    """Wakes those who wait for a record's final state, when it is reached or when the process stops."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._loop: asyncio.Task[None] | None = None
        self._closed = False

    async def for_final(self, record_id: str, seconds: float) -> None:
        """Return when the record is final, gone, or `seconds` have passed, whichever comes first."""
        if self._closed or seconds <= 0:
            return
        event = asyncio.Event()
        self._waiters[record_id].add(event)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._watch())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            self._waiters[record_id].discard(event)
            if not self._waiters[record_id]:
                del self._waiters[record_id]

    def close(self) -> None:
        """Wake everybody; from now on nobody waits. Safe to call from a signal handler of the event loop."""
        self._closed = True
        for events in self._waiters.values():
            for event in events:
                event.set()

    async def _watch(self) -> None:
        while self._waiters and not self._closed:
            asked = list(self._waiters)
            try:
                statuses = await run_in_threadpool(self._statuses, asked)
            except Unavailable:  # those who wait go on waiting; their time runs out by itself
                statuses = dict.fromkeys(asked, "unknown")
            for record_id in asked:
                if statuses.get(record_id, "ready") in FINAL:  # a record that is gone will not change either
                    for event in self._waiters.get(record_id, ()):
                        event.set()
            await asyncio.sleep(_INTERVAL_S)

    def _statuses(self, record_ids: list[str]) -> Mapping[str, str]:
        with self._registry.read() as unit:
            found: dict[str, str] = {}
            for repository in (unit.datasets, unit.models, unit.jobs, unit.batches, unit.calibrators):
                found |= repository.statuses(record_ids)
        return found
