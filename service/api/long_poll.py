"""Everybody who waits, for a record's end or a job's next events: one loop asks the registry for all of them.

A waiting client holds no thread and no connection to the database, and it may ask any API process: what it waits for is
in the database. A waiter is told once; whoever wants to hear more waits anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from anyio import CapacityLimiter, to_thread

from service.registry.contract import FINAL
from service.registry.errors import Unavailable
from service.registry.presenters import event_json
from service.registry.unit_of_work import Registry, UnitOfWork

_LOG = logging.getLogger(__name__)

_INTERVAL_S = 0.2
#: Ids in one query; more would be refused by some builds of SQLite (999 parameters).
_AT_ONCE = 500
_LINES_AT_ONCE = 500
#: Lines of one look, some 3 MB: each of a thousand clients may stand at another place of a long job.
_MOST_LINES = 5_000


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a job, written out once for all who listen."""

    number: int
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class News:
    """What a waiter is told: new lines, oldest first, and whether nothing will follow."""

    lines: Sequence[Line] = ()
    ended: bool = False


@dataclass(eq=False, slots=True)
class _Waiter:
    record_id: str
    after: int | None  # the last event that is known; None waits for the record's end alone
    told: asyncio.Future[News] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def tell(self, news: News) -> None:
        if not self.told.done():
            self.told.set_result(news)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look into the registry found."""

    statuses: Mapping[str, str]
    newest: Mapping[str, int]
    lines: Mapping[tuple[str, int], Sequence[Line]]  # by job and last known event

    def news_for(self, waiter: _Waiter) -> News | None:
        """What this waiter should hear now; a record that is gone has ended too."""
        final = self.statuses.get(waiter.record_id, "ready") in FINAL
        if waiter.after is None:
            return News(ended=True) if final else None
        lines = self.lines.get((waiter.record_id, waiter.after), ())
        last = lines[-1].number if lines else waiter.after
        ended = final and last >= self.newest.get(waiter.record_id, 0)
        return News(lines, ended) if lines or ended else None


class Waiting:
    """Wakes those who wait, as soon as there is something to tell or the process stops."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiters: set[_Waiter] = set()
        self._loop: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)  # its own: the loop must not queue behind handlers
        self._closed = False

    async def for_final(self, record_id: str, seconds: float) -> None:
        """Return when the record is final, gone, or `seconds` have passed, whichever comes first."""
        if seconds > 0:
            await self._wait(_Waiter(record_id, None), seconds)

    async def for_events(self, job_id: str, after: int, seconds: float) -> News:
        """Events of the job that follow number `after`; none if nothing has happened within `seconds`."""
        return await self._wait(_Waiter(job_id, after), seconds)

    def close(self) -> None:
        """Tell everybody that nothing will follow. Safe to call from a signal handler of the event loop."""
        self._closed = True
        for waiter in list(self._waiters):
            waiter.tell(News(ended=True))

    async def _wait(self, waiter: _Waiter, seconds: float) -> News:
        if self._closed:
            return News(ended=True)
        self._waiters.add(waiter)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(seconds):
                return await waiter.told
        except TimeoutError:
            return News()
        finally:
            self._waiters.discard(waiter)

    async def _watch(self) -> None:
        while self._waiters and not self._closed:
            asked = list(self._waiters)
            try:
                seen = await to_thread.run_sync(self._look, asked, limiter=self._thread, abandon_on_cancel=True)
            except Unavailable:  # those who wait go on waiting; their time runs out by itself
                asked = []
            except Exception:  # one job's unreadable line must not silence all others
                _LOG.exception("those who wait cannot be told of anything just now")
                asked = []
            for waiter in asked:
                if (news := seen.news_for(waiter)) is not None:
                    waiter.tell(news)
            await asyncio.sleep(_INTERVAL_S)

    def _look(self, waiters: Iterable[_Waiter]) -> _Seen:
        record_ids = {waiter.record_id for waiter in waiters}
        known = {(waiter.record_id, waiter.after) for waiter in waiters if waiter.after is not None}
        with self._registry.read() as unit:
            # In this order: of a job whose end is seen here, the last event is seen below.
            statuses = _statuses(unit, record_ids)
            newest: dict[str, int] = {}
            for some in _chunks({job_id for job_id, _ in known}):
                newest |= unit.events.newest(some)
            behind = [(job_id, after) for job_id, after in known if after < newest.get(job_id, 0)]
            return _Seen(statuses, newest, _lines(unit, behind))


def _statuses(unit: UnitOfWork, record_ids: Collection[str]) -> dict[str, str]:
    """The status of each of these records that exists."""
    ask: dict[str, Callable[[list[str]], Mapping[str, str]]] = {
        "ds": unit.datasets.statuses,
        "mdl": unit.models.statuses,
        "job": unit.jobs.statuses,
        "bat": unit.batches.statuses,
        "cal": unit.calibrators.statuses,
    }
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for record_id in record_ids:
        kinds[record_id.partition("_")[0]].append(record_id)
    found: dict[str, str] = {}
    for kind, ids in kinds.items():
        for some in _chunks(ids):
            found |= ask[kind](some)
    return found


def _lines(unit: UnitOfWork, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[Line]]:
    """What follows each of these places; those for whom there is no room any more are told by a later look."""
    found: dict[tuple[str, int], list[Line]] = {}
    room = _MOST_LINES
    for job_id, after in places:
        if room <= 0:
            break
        rows = unit.events.after(job_id, after, limit=_LINES_AT_ONCE)
        found[job_id, after] = [Line(row.number, row.type, event_json(row)) for row in rows]
        room -= len(rows)
    return found


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
