"""The statistics of all work, for monitoring: counts that cost what is open, however much has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, case, func, select

from service.registry.repositories.records import Repository
from service.registry.tables import Job, Work

_OPEN_JOBS, _ENDED_JOBS = ("queued", "running", "cancelling"), ("succeeded", "failed", "cancelled")


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


class WorkStatistics(Repository):
    """Counts over queues and jobs; nothing is changed."""

    def open_work(self) -> Mapping[tuple[str, str], OpenWork]:
        """What is open, by queue and kind; pairs of which nothing is open are left out."""
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
        """The workers that hold anything, by their names."""
        held = select(Work.worker).where(Work.state == "claimed", Work.worker.is_not(None))
        return set(self.session.scalars(held.distinct()))

    def open_jobs(self) -> Mapping[str, int]:
        """How many jobs have not ended, by status."""
        return self._jobs(_OPEN_JOBS)

    def ended_jobs(self) -> Mapping[str, int]:
        """How many jobs have ended, by status: an index is read from end to end."""
        return self._jobs(_ENDED_JOBS)

    def _jobs(self, statuses: Sequence[str]) -> Mapping[str, int]:
        counted = select(Job.status, func.count()).where(Job.status.in_(statuses)).group_by(Job.status)
        return {**dict.fromkeys(statuses, 0), **{row.status: row[1] for row in self.session.execute(counted)}}


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((which, 1), else_=0))
