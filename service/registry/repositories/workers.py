"""The workers and their heartbeats, and the overview and statistics of all work for operators and monitoring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeAlias

from sqlalchemy import ColumnElement, case, delete, func, literal, or_, select
from sqlalchemy import Row as SqlRow

from service.registry.queues import OPENING, TAKERS, WORK_KINDS
from service.registry.repositories.records import Repository
from service.registry.repositories.work import PARENT_ID
from service.registry.tables import Batch, Calibrator, Dataset, Event, Job, Model, Work, WorkerProcess

#: A worker without a heartbeat for so long counts as dead: several heartbeats, and a slow database.
SILENT_S = 30.0


class Workers(Repository):
    def heartbeat(
        self,
        name: str,
        *,
        machine: str,
        process: str,
        queues: Sequence[str],
        gpu: bool,
        memory_bytes: int,
        release: str | None = None,
        unfit: str | None = None,
    ) -> None:
        moment = self.now
        row = self.session.get(WorkerProcess, name)
        if row is not None and row.process == process:
            row.seen_at, row.memory_bytes, row.unfit = moment, memory_bytes, unfit
            return
        self.session.merge(
            WorkerProcess(
                name=name,
                machine=machine,
                process=process,
                queues=list(queues),
                gpu=gpu,
                memory_bytes=memory_bytes,
                release=release,
                unfit=unfit,
                started_at=moment,
                seen_at=moment,
            )
        )

    def on_machine(self, machine: str) -> Sequence[WorkerProcess]:
        return self.session.scalars(select(WorkerProcess).where(WorkerProcess.machine == machine)).all()

    def living(self, *, within_seconds: float) -> Sequence[WorkerProcess]:
        since = self.now - timedelta(seconds=within_seconds)
        return self.session.scalars(select(WorkerProcess).where(WorkerProcess.seen_at >= since)).all()

    @cached_property
    def known(self) -> Sequence[WorkerProcess]:
        """All that have not been forgotten, by their names; read once for all records of a page."""
        return self.session.scalars(select(WorkerProcess).order_by(WorkerProcess.name)).all()

    def obstacle(self, queue: str, holder: str | None = None) -> str | None:
        """Obstacle to work of this queue, perhaps claimed by `holder`; None where it waits its turn."""
        now = self.now
        takers = [one for one in self.known if queue in one.queues]
        ages = {one.name: (now - one.seen_at).total_seconds() for one in takers}
        silent = {name: age for name, age in ages.items() if age > SILENT_S}
        unfit = [one.unfit for one in takers if one.name not in silent and queue in OPENING]
        is_served = len(silent) < len(ages)
        if holder in silent:
            others = "another one goes on with it when its lease ends" if is_served else "no other one takes it"
            return f"the worker that runs this has not been heard of for {_roughly(silent[holder])}; {others}"
        if is_served:
            return unfit[0] if unfit and None not in unfit else None
        if not silent:
            return f"no worker takes this yet; there is none {TAKERS[queue]}"
        verb, last = "has" if len(silent) == 1 else "have", _roughly(min(silent.values()))
        return f"no worker takes this; {len(silent)} of {len(self.known)} {verb} not been heard of for {last}"

    def silent(self, *, for_seconds: float) -> list[str]:
        before = self.now - timedelta(seconds=for_seconds)
        return list(self.session.scalars(select(WorkerProcess.name).where(WorkerProcess.seen_at < before)))

    def forget(self, names: Iterable[str]) -> None:
        self.session.execute(delete(WorkerProcess).where(WorkerProcess.name.in_(list(names))))


def _roughly(seconds: float) -> str:
    """So long a silence, in steps of 10 s or a minute: the `ETag` of a record that tells of it changes no more often.

    >>> _roughly(47.9), _roughly(750.0)
    ('40 s', '12 min')
    """
    return f"{seconds // 10 * 10:.0f} s" if seconds < 300 else f"{seconds // 60:.0f} min"


#: Work that a worker holds, or whose lease has ended and nobody has released it yet: `record_id`, `parent_id` of a
#: piece, `kind`, `queue`, `worker`, `started_at`, `lease_expires_at`, `attempts`.
HeldWork: TypeAlias = SqlRow[str, str | None, str, str, str | None, datetime | None, datetime | None, int]
#: Records of one kind that ended with the same code: `noun`, `code`, `number`, `newest_id`.
Failures: TypeAlias = SqlRow[str, str, int, str]


@dataclass(frozen=True, slots=True)
class ReturnedWork:
    """Work that waits again: its process or worker was lost, or it was handed back."""

    record_id: str
    kind: str
    losses: int
    reason: str | None
    not_before: datetime


OPEN_JOBS = ("queued", "running", "cancelling")
ENDED_JOBS = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class OpenWork:
    """Open work of one kind in one queue.

    Attributes:
        due: rows that a worker may claim now; the oldest of them has been for `oldest_seconds`.
        later: rows that wait for a moment, after a loss or a failed delivery.
        blocked: rows that wait for other records, or for their own pieces.
        claimed: rows that a worker holds.
        expired: of these, rows whose lease has ended and that nobody has released yet.
    """

    due: int = 0
    oldest_seconds: float = 0.0
    later: int = 0
    blocked: int = 0
    claimed: int = 0
    expired: int = 0

    @property
    def waiting(self) -> int:
        return self.due + self.later + self.blocked


#: Kinds of records that fail, with the column that says when; a rejected upload is as old as its upload, about.
_FAILING = (
    ("job", Job, Job.finished_at),
    ("batch prediction", Batch, Batch.finished_at),
    ("model", Model, Model.created_at),
    ("dataset", Dataset, Dataset.created_at),
    ("calibrator", Calibrator, Calibrator.created_at),
)


class WorkOverview(Repository):
    """Reads over all open work and counts for monitoring, which cost what is open; nothing is changed."""

    def held(self, *, limit: int) -> Sequence[HeldWork]:
        query = (
            select(
                Work.record_id,
                PARENT_ID.label("parent_id"),
                Work.kind,
                Work.queue,
                Work.worker,
                func.coalesce(Job.started_at, Batch.started_at, type_=Job.started_at.type).label("started_at"),
                Work.lease_expires_at,
                Work.attempts,
            )
            .outerjoin(Job, Job.id == Work.record_id)
            .outerjoin(Batch, Batch.id == Work.record_id)
            .where(Work.state == "claimed")
        )
        return self.session.execute(query.order_by(Work.record_id).limit(limit)).all()

    def returned(self, *, limit: int) -> list[ReturnedWork]:
        """Work that waits again, messages of webhooks apart, which wait for their receivers."""
        again = or_(Work.attempts > 0, Work.not_before > self.now)
        query = select(Work).where(Work.state == "waiting", Work.kind != WORK_KINDS["msg"], again)
        rows = self.session.scalars(query.order_by(Work.record_id).limit(limit)).all()
        attempts = select(Event.job_id, Event.data).where(
            Event.job_id.in_([row.record_id for row in rows]), Event.type == "attempt"
        )
        told = {
            one.job_id: str(one.data.get("reason")) for one in self.session.execute(attempts.order_by(Event.number))
        }
        return [
            ReturnedWork(
                row.record_id,
                row.kind,
                len(row.losses),
                row.losses[-1] if row.losses else told.get(row.record_id),
                row.not_before,
            )
            for row in rows
        ]

    def failures(self, *, since: datetime) -> list[Failures]:
        """Failures since then, by kind of record and code, the most frequent first."""
        failures: list[Failures] = []
        for noun, table, moment in _FAILING:
            code = table.error["code"].as_string()
            columns = code.label("code"), func.count().label("number"), func.max(table.id).label("newest_id")
            ended = select(literal(noun).label("noun"), *columns).where(
                table.status.in_(("failed", "rejected")), moment >= since, code.is_not(None)
            )
            failures += self.session.execute(ended.group_by(code))
        return sorted(failures, key=lambda one: (-one.number, one.noun, one.code))

    def served_as(self, digests: Sequence[str]) -> list[tuple[str, str, str]]:
        """Digest, id and name of the models whose served copy is one of these."""
        query = select(Model.served_sha256, Model.id, Model.name).where(Model.served_sha256.in_(digests))
        return [(str(row.served_sha256), row.id, row.name) for row in self.session.execute(query.order_by(Model.id))]

    def open_work(self) -> Mapping[tuple[str, str], OpenWork]:
        """Open work by queue and kind; pairs of which nothing is open are left out."""
        moment = self.now
        due = (Work.state == "waiting") & (Work.not_before <= moment)
        numbers = (
            _count(due),
            func.min(case((due, Work.not_before)), type_=Work.not_before.type),
            _count((Work.state == "waiting") & (Work.not_before > moment)),
            _count(Work.state == "blocked"),
            _count(Work.state == "claimed"),
            _count((Work.state == "claimed") & (Work.lease_expires_at < moment)),
        )
        counted = select(Work.queue, Work.kind, *numbers).where(Work.state.in_(("waiting", "blocked", "claimed")))
        return {
            (queue, kind): OpenWork(number, (moment - since).total_seconds() if since else 0.0, *others)
            for queue, kind, number, since, *others in self.session.execute(counted.group_by(Work.queue, Work.kind))
        }

    def holders(self) -> set[str]:
        held = select(Work.worker).where(Work.state == "claimed", Work.worker.is_not(None))
        return set(self.session.scalars(held.distinct()))

    def jobs(self, statuses: Sequence[str]) -> Mapping[str, int]:
        """How many jobs have each of these statuses; of ended ones an index is read from end to end."""
        counted = select(Job.status, func.count()).where(Job.status.in_(statuses)).group_by(Job.status)
        return {**dict.fromkeys(statuses, 0), **{row.status: row[1] for row in self.session.execute(counted)}}


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((which, 1), else_=0))
