"""Long polls and event streams: one loop asks the registry for all clients that wait.

A waiting client holds no thread and no connection to the database, and it may ask any API process: what it waits for is
in the database. Each wait is answered once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from anyio import CapacityLimiter, to_thread
from fastapi.sse import format_sse_event

from fedlas.contract.records import FINAL
from service.registry.errors import Unavailable
from service.registry.presenters import event_json
from service.registry.registry import Registry, UnitOfWork

_LOG = logging.getLogger(__name__)

_INTERVAL_S = 0.2
_EVENTS_AT_ONCE = 500
#: Events in one round, some 3 MB: each of a thousand clients may be at another place of a long job.
_MAX_EVENTS = 5_000


class Frame(NamedTuple):
    """One event of a job as its streams send it, written once for all of them."""

    number: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Update:
    """The answer to one wait: new events, oldest first, and whether none will follow."""

    events: Sequence[Frame] = ()
    ended: bool = False


@dataclass(eq=False, slots=True)
class _Waiter:
    record_id: str
    after: int | None  # the last event that is known; None waits for the record's end alone
    answer: asyncio.Future[Update] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def resolve(self, update: Update) -> None:
        if not self.answer.done():
            self.answer.set_result(update)


@dataclass(frozen=True, slots=True)
class _Observation:
    """The state of a record in one round of polling."""

    statuses: Mapping[str, str]
    newest: Mapping[str, int]
    events: Mapping[tuple[str, int], Sequence[Frame]]  # by job and last known event

    def update_for(self, waiter: _Waiter) -> Update | None:
        """The answer for this waiter, None where there is none yet; a record that is gone has ended too."""
        final = self.statuses.get(waiter.record_id, "ready") in FINAL
        if waiter.after is None:
            return Update(ended=True) if final else None
        events = self.events.get((waiter.record_id, waiter.after), ())
        ended = final and (events[-1].number if events else waiter.after) >= self.newest.get(waiter.record_id, 0)
        return Update(events, ended) if events or ended else None


class LongPoll:
    """Answers waits as soon as a record is final, a job has new events, or the process stops.

    Attributes:
        closed: the process stops: all waits end at once.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiters: set[_Waiter] = set()
        self._loop: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)  # its own: the loop must not queue behind handlers
        self.closed = False

    async def for_final(self, record_id: str, seconds: float) -> None:
        """Return when the record is final, gone, or `seconds` have passed, whichever comes first."""
        if seconds > 0:
            await self._wait(_Waiter(record_id, None), seconds)

    async def for_events(self, job_id: str, after: int, seconds: float) -> Update:
        """Events of the job that follow number `after`; none if nothing has happened within `seconds`."""
        return await self._wait(_Waiter(job_id, after), seconds)

    def close(self) -> None:
        """End all waits: nothing will follow. Safe to call from a signal handler of the event loop."""
        self.closed = True
        for waiter in list(self._waiters):
            waiter.resolve(Update(ended=True))

    async def _wait(self, waiter: _Waiter, seconds: float) -> Update:
        if self.closed:
            return Update(ended=True)
        self._waiters.add(waiter)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(seconds):
                return await waiter.answer
        except TimeoutError:
            return Update()
        finally:
            self._waiters.discard(waiter)

    async def _watch(self) -> None:
        while self._waiters and not self.closed:
            asked = list(self._waiters)
            try:
                snapshot = await to_thread.run_sync(self._round, asked, limiter=self._thread, abandon_on_cancel=True)
            except Unavailable:  # all go on waiting, until their time is up
                asked = []
            except Exception:  # an unreadable event of one job must not hold up all others
                _LOG.exception("long polls and event streams cannot be answered just now")
                asked = []
            for waiter in asked:
                if (update := snapshot.update_for(waiter)) is not None:
                    waiter.resolve(update)
            await asyncio.sleep(_INTERVAL_S)

    def _round(self, waiters: Iterable[_Waiter]) -> _Observation:
        known = {(waiter.record_id, waiter.after) for waiter in waiters if waiter.after is not None}
        with self._registry.read() as unit:
            # In this order: of a job whose end is seen here, the last event is seen below.
            statuses = _statuses(unit, {waiter.record_id for waiter in waiters})
            newest = unit.events.newest({job_id for job_id, _ in known})
            behind = [(job_id, after) for job_id, after in known if after < newest.get(job_id, 0)]
            return _Observation(statuses, newest, _events(unit, behind))


def _statuses(unit: UnitOfWork, record_ids: Collection[str]) -> dict[str, str]:
    ask: dict[str, Callable[[list[str]], Mapping[str, str]]] = {
        "ds": unit.datasets.statuses,
        "mdl": unit.models.statuses,
        "job": unit.jobs.statuses,
        "bat": unit.batches.statuses,
        "cal": unit.calibrators.statuses,
    }
    status_by_id: dict[str, str] = {}
    for prefix, statuses in ask.items():
        if asked := [record_id for record_id in record_ids if record_id.startswith(f"{prefix}_")]:
            status_by_id |= statuses(asked)
    return status_by_id


def _events(unit: UnitOfWork, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[Frame]]:
    frames: dict[tuple[str, int], list[Frame]] = {}
    room = _MAX_EVENTS
    for job_id, after in places:
        if room <= 0:
            break
        rows = unit.events.after(job_id, after, limit=_EVENTS_AT_ONCE)
        frames[job_id, after] = [
            Frame(row.number, format_sse_event(id=str(row.number), event=row.type, data_str=event_json(row)))
            for row in rows
        ]
        room -= len(rows)
    return frames
