"""The overview of all work, for operators: what waits, what is held and by whom, what was handed back, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, or_, select

from service.registry.contract import WORK_KINDS
from service.registry.repositories.records import Repository
from service.registry.repositories.work import PARENT_ID
from service.registry.tables import Batch, Calibrator, Dataset, Event, Job, Model, Work


@dataclass(frozen=True, slots=True)
class WaitingWork:
    """Work of one kind that waits in one queue.

    Attributes:
        blocked: of all, those whose inputs are inspected, or whose pieces are worked on, first.
        due: those that a worker may take now; the oldest of them since `due_since`.
    """

    kind: str
    queue: str
    count: int
    blocked: int
    due: int
    due_since: datetime | None


@dataclass(frozen=True, slots=True)
class HeldWork:
    """Work that a worker holds, or whose lease has ended and nobody has released it yet; a piece with its parent."""

    record_id: str
    parent_id: str | None
    kind: str
    queue: str
    worker: str | None
    started_at: datetime | None
    lease_expires_at: datetime | None
    attempts: int


@dataclass(frozen=True, slots=True)
class ReturnedWork:
    """Work that waits again: its process or worker was lost, or it was handed back."""

    record_id: str
    kind: str
    losses: int
    reason: str | None
    not_before: datetime


@dataclass(frozen=True, slots=True)
class Failures:
    """Records of one kind that ended with the same code."""

    noun: str
    code: str
    count: int
    newest_id: str


#: Kinds of records that fail, with the column that says when; a rejected upload is as old as its upload, about.
_FAILING = (
    ("job", Job, Job.finished_at),
    ("batch prediction", Batch, Batch.finished_at),
    ("model", Model, Model.created_at),
    ("dataset", Dataset, Dataset.created_at),
    ("calibrator", Calibrator, Calibrator.created_at),
)


class WorkOverview(Repository):
    """Reads over all open work; nothing is changed."""

    def waiting(self) -> list[WaitingWork]:
        """What waits, by kind and queue."""
        due = (Work.state == "waiting") & (Work.not_before <= self.now)
        counted = select(
            Work.kind,
            Work.queue,
            func.count(),
            func.sum(case((Work.state == "blocked", 1), else_=0)),
            func.sum(case((due, 1), else_=0)),
            func.min(case((due, Work.not_before))),
        ).where(Work.state.in_(("waiting", "blocked")))
        rows = self.session.execute(counted.group_by(Work.kind, Work.queue).order_by(Work.kind, Work.queue))
        return [WaitingWork(*row) for row in rows]

    def held(self, *, limit: int) -> list[HeldWork]:
        """What is held, oldest first."""
        query = (
            select(
                Work.record_id,
                PARENT_ID,
                Work.kind,
                Work.queue,
                Work.worker,
                func.coalesce(Job.started_at, Batch.started_at, type_=Job.started_at.type),
                Work.lease_expires_at,
                Work.attempts,
            )
            .outerjoin(Job, Job.id == Work.record_id)
            .outerjoin(Batch, Batch.id == Work.record_id)
            .where(Work.state == "claimed")
        )
        return [HeldWork(*row) for row in self.session.execute(query.order_by(Work.record_id).limit(limit))]

    def returned(self, *, limit: int) -> list[ReturnedWork]:
        """What waits again, messages of webhooks apart, which wait for their receivers."""
        again = or_(Work.attempts > 0, Work.not_before > self.now)
        query = select(Work).where(Work.state == "waiting", Work.kind != WORK_KINDS["msg"], again)
        rows = self.session.scalars(query.order_by(Work.record_id).limit(limit)).all()
        told = self._reasons([row.record_id for row in rows])
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
        """What has failed since then, by kind of record and code, the most frequent first."""
        found = []
        for noun, table, moment in _FAILING:
            code = table.error["code"].as_string()
            ended = select(code, func.count(), func.max(table.id)).where(
                table.status.in_(("failed", "rejected")), moment >= since, code.is_not(None)
            )
            found += [Failures(noun, *row) for row in self.session.execute(ended.group_by(code))]
        return sorted(found, key=lambda one: (-one.count, one.noun, one.code))

    def served_as(self, digests: Sequence[str]) -> list[tuple[str, str, str]]:
        """Digest, id and name of the models whose served copy is one of these."""
        query = select(Model.served_sha256, Model.id, Model.name).where(Model.served_sha256.in_(digests))
        rows = self.session.execute(query.order_by(Model.id))
        return [(str(row.served_sha256), row.id, row.name) for row in rows]

    def _reasons(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Why each of these jobs was given back last."""
        attempts = select(Event.job_id, Event.data).where(Event.job_id.in_(job_ids), Event.type == "attempt")
        return {
            row.job_id: str(row.data.get("reason")) for row in self.session.execute(attempts.order_by(Event.number))
        }
