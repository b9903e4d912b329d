"""Observations that only a running system allows: the owners of pieces, holders of a fan-in, progress that falls."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.chaos.site import Site
from tests.chaos.supervised import Supervised

_LOOK_S, _AMBUSH_LOOK_S = 0.25, 0.003

#: Pieces that have been done, and by whom.
_ENDED = (
    "SELECT p.parent_id, p.id, w.worker FROM pieces p JOIN work w ON w.record_id = p.id"
    " WHERE p.status = 'done' AND w.worker IS NOT NULL"
)
_ENDED_JOB = "SELECT id FROM jobs WHERE id = %s AND status IN ('succeeded', 'failed', 'cancelled')"
_PROGRESS = "SELECT id, progress->>'fraction' FROM jobs UNION ALL SELECT id, progress->>'fraction' FROM batches"
_RUNNING = "SELECT record_id FROM work WHERE kind = 'calibrate' AND state = 'claimed' AND lease_expires_at > now()"
_FAN_INS = (
    "SELECT w.record_id, w.worker FROM work w JOIN pieces p ON p.parent_id = w.record_id"
    " WHERE w.kind = 'predict' AND w.state = 'claimed' GROUP BY 1, 2 HAVING bool_and(p.status <> 'waiting')"
)
#: A fan-in is near where so few pieces are left.
_NEAR = (
    "SELECT w.record_id FROM work w JOIN pieces p ON p.parent_id = w.record_id"
    " WHERE w.kind = 'predict' AND w.state <> 'done'"
    " GROUP BY 1 HAVING count(*) FILTER (WHERE p.status = 'waiting') <= 2"
)


@dataclass(frozen=True)
class FanIn:
    """A batch that somebody puts together, all its pieces being done."""

    record_id: str
    worker: Supervised


@dataclass
class Seen:
    """Observations of the run: who did each piece of a batch, their progress, and progress that fell."""

    workers_of: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    reached: dict[str, float] = field(default_factory=dict)
    fallen: list[str] = field(default_factory=list)

    def spread(self) -> list[str]:
        """The batches whose pieces were done by several workers."""
        return [parent for parent, pieces in self.workers_of.items() if len(set(pieces.values())) > 1]


class Watch:
    """Looks at the registry's rows several times a second, in a thread of its own, while its `with` block runs."""

    def __init__(self, site: Site) -> None:
        self.seen = Seen()
        self._site = site
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def running_jobs(self) -> list[str]:
        """The jobs that workers train at this moment."""
        return [row[0] for row in self._ask(lambda connection: connection.execute(_RUNNING).fetchall())]

    def has_ended(self, job_id: str | None) -> bool:
        """True where the job is in a final state."""
        return self._ask(lambda connection: connection.execute(_ENDED_JOB, [job_id]).fetchall()) != []

    def await_fan_in(self, *, seconds: float) -> FanIn | None:
        """A batch's fan-in, the moment it is claimed; None where none is near, or it does not come."""

        def lie_in_wait(connection: psycopg.Connection[Any]) -> list[Any]:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and connection.execute(_NEAR).fetchone() is not None:
                if found := connection.execute(_FAN_INS).fetchall():
                    return found
                time.sleep(_AMBUSH_LOOK_S)
            return []

        for record_id, name in self._ask(lie_in_wait):
            part = self._part(name)
            if part is not None and part.is_running and not part.ordered:
                return FanIn(record_id, part)
        return None

    def _ask(self, question: Callable[[psycopg.Connection[Any]], list[Any]]) -> list[Any]:
        """The answer, or nothing where the database is away."""
        with suppress(psycopg.Error), self._site.connect() as connection:
            return question(connection)
        return []

    def _run(self) -> None:
        while not self._over.wait(_LOOK_S):
            with suppress(psycopg.Error), self._site.connect() as connection:
                while not self._over.wait(_LOOK_S):
                    self._look(connection)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        for parent, piece, worker in connection.execute(_ENDED):
            part = self._part(worker)
            if part is not None:
                self.seen.workers_of[parent][piece] = part.name
        for record_id, told in connection.execute(_PROGRESS):
            fraction, before = float(told or 0), self.seen.reached.get(record_id, 0.0)
            if fraction < before:
                self.seen.fallen.append(f"{record_id}: from {before} to {fraction}")
            self.seen.reached[record_id] = fraction

    def _part(self, worker: str) -> Supervised | None:
        """The part of the site whose process has this name in the registry: host, process id and start."""
        pid = int(worker.rsplit("-", 2)[1])
        return next((part for part in self._site.workers if pid in part.pids), None)
