"""The work queue: work is claimed by compare-and-set, held by a lease, fenced by a token that grows with every claim.

The row is the truth: a lost or doubled message of the broker is harmless. Times are the database's. Flows take turns by
start-time fair queueing (Goyal, Vin & Cheng, 1996): a flow is a job or batch with all its pieces, and each row is given
its turn when it is opened, so that a claim reads one row of an index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy import Row as SqlRow
from sqlalchemy.orm import Session, aliased

from service.registry.errors import LeaseLost, WorkGone
from service.registry.queues import DELIVERIES, QUEUE_OF, kind_of_record
from service.registry.repositories.records import AfterCommit, Permit, Repository
from service.registry.tables import Job, Work

#: A flow that comes new is served before the next row of those that are served already, but so many such flows in a
#: row let an older one pass: without this a stream of small jobs would keep a large one from ever ending.
_NEWCOMERS = 8
#: How long work waits after its process was lost for the first, second, … time in a row; the last one repeats.
BACK_OFF_S = (0.0, 5.0, 15.0, 45.0, 120.0, 300.0)
SILENT = "its worker went silent"
#: Work that is alone is a flow of its own.
PARENT_ID = func.nullif(Work.flow, Work.record_id)


def first_turn(session: Session, queue: str) -> float:
    """The turn of a flow that is new in this queue, the same for all that come in one transaction."""
    with session.no_autoflush:  # what this transaction adds is written at its end, all in one
        served = session.scalar(select(func.max(Work.turn)).where(Work.state == "claimed", Work.queue == queue))
        if served is None:
            served = session.scalar(select(func.min(Work.turn)).where(Work.state == "waiting", Work.queue == queue))
    return 0.0 if served is None else served + 1 / _NEWCOMERS


#: The work whose turn it is in a queue: `record_id`, `kind`, `flow`.
Due: TypeAlias = SqlRow[str, str, str]


def free(moment: datetime) -> ColumnElement[bool]:
    """No other work with the same concurrency key is claimed under a living lease."""
    other = aliased(Work)
    held = select(other.concurrency_key).where(
        other.state == "claimed", other.concurrency_key.is_not(None), other.lease_expires_at >= moment
    )
    return or_(Work.concurrency_key.is_(None), Work.concurrency_key.not_in(held))


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a record and to write its result, until the lease ends or another worker claims it.

    Attributes:
        losses: why earlier processes were lost, since the work last got further.
        parent_id: the batch that it is a piece of; None where it is alone.
    """

    record_id: str
    kind: str
    token: int
    attempts: int
    losses: Sequence[str] = ()
    parent_id: str | None = None

    def __str__(self) -> str:
        return named(self.record_id, self.parent_id)


def named(record_id: str, parent_id: str | None) -> str:
    """A record as logs name it: a piece with its batch.

    >>> named("shd_1", "bat_1"), named("job_1", None)
    ('shd_1 of bat_1', 'job_1')
    """
    return record_id if parent_id is None else f"{record_id} of {parent_id}"


class WorkQueue(Repository):
    """The queue of work: open, look for what is due, claim, renew, release, finish.

    Messages of webhooks stand by their moment, all other work by its turn. Work that needs more than `max_memory` bytes
    is left to other workers; None takes any.
    """

    def next_due(self, queue: str, max_memory: int | None = None) -> Due | None:
        """The work of this queue that is due, and whose turn it is; messages by their moment."""
        order = (Work.not_before,) if queue == DELIVERIES else (Work.turn, Work.record_id)
        due = self._due(queue, max_memory, moment=self.now).order_by(*order).limit(1)
        return self.session.execute(due).one_or_none()

    def due(
        self, queue: str, max_memory: int | None = None, *, limit: int, skip: int = 0, due_for: float = 0.0
    ) -> list[Permit]:
        """At most `limit` permits, after `skip`, for work of this queue that is due for `due_for` seconds, in order."""
        due = self._due(queue, max_memory, moment=self.now - timedelta(seconds=due_for))
        rows = self.session.execute(due.order_by(Work.turn, Work.record_id).offset(skip).limit(limit))
        return [Permit(row.record_id, row.kind, queue) for row in rows]

    def _due(self, queue: str, max_memory: int | None, *, moment: datetime) -> Select[str, str, str]:
        # In a function the column leads SQLite to no index on moments, of which it would sort all that is due for the
        # one whose turn it is: 3.1 ms for a look into a queue of 10,000, and not 0.7.
        since = Work.not_before if queue == DELIVERIES else func.coalesce(Work.not_before, moment)
        due = [Work.state == "waiting", Work.queue == queue, since <= moment]
        if queue == DELIVERIES:
            due.append(free(moment))
        if max_memory is not None:
            due.append(Work.memory_bytes <= max_memory)
        return select(Work.record_id, Work.kind, Work.flow).where(*due)

    def open(
        self,
        record_id: str,
        *,
        kind: str | None = None,
        queue: str | None = None,
        blocked: bool = False,
        memory_bytes: int = 0,
        concurrency_key: str | None = None,
    ) -> Work:
        """Open work for this new record; without `kind` and `queue` what its id says.

        Args:
            blocked: other records must be inspected first; `unblock` opens it when they are.
            concurrency_key: of work with the same key one piece is done at a time, by whichever worker.
        """
        kind = kind or kind_of_record(record_id)
        queue = queue or QUEUE_OF[kind]
        return self._open(
            record_id,
            kind,
            queue,
            state="blocked" if blocked else "waiting",
            flow=record_id,
            turn=first_turn(self.session, queue),
            memory_bytes=memory_bytes,
            concurrency_key=concurrency_key,
        )

    def open_all(self, record_ids: Sequence[str], *, queue: str, flow: str) -> None:
        """Open work for the pieces of a flow, which takes turns with all others in this queue."""
        turn = first_turn(self.session, queue)
        of_flow = (Work.flow == flow, Work.queue == queue, Work.state.in_(("waiting", "claimed")))
        if (last := self.session.scalar(select(func.max(Work.turn)).where(*of_flow))) is not None:
            turn = max(turn, last + 1)
        for place, record_id in enumerate(record_ids):
            self._open(record_id, kind_of_record(record_id), queue, flow=flow, turn=turn + place)

    def _open(self, record_id: str, kind: str, queue: str, *, state: str = "waiting", **values: object) -> Work:
        given = {"record_id": record_id, "kind": kind, "queue": queue, "state": state, **values}
        work = Work(**given, not_before=self.now, attempts=0, losses=[])
        self.session.add(work)
        if state == "waiting":
            self._permit(record_id, kind, queue)
        return work

    def of(self, record_id: str) -> Work:
        return self.session.get_one(Work, record_id)

    def name_of(self, record_id: str) -> str:
        return named(record_id, self.session.scalar(select(PARENT_ID).where(Work.record_id == record_id)))

    def claim(self, record_id: str, *, worker: str, lease_seconds: float) -> Claim | None:
        """Claim the work unless it, or other work with its concurrency key, is claimed.

        None if it is blocked, done, gone, not yet due, or under a living lease.
        """
        self._release(Work.record_id == record_id, self._expired)
        moment = self.now
        claimed = self.session.execute(
            update(Work)
            .where(Work.record_id == record_id, Work.state == "waiting", Work.not_before <= moment, free(moment))
            .values(
                state="claimed",
                token=Work.token + 1,
                attempts=Work.attempts + 1,
                worker=worker,
                lease_expires_at=moment + timedelta(seconds=lease_seconds),
            )
            .returning(Work.kind, Work.token, Work.attempts, Work.losses, PARENT_ID)
        ).one_or_none()
        return None if claimed is None else Claim(record_id, *claimed)

    def claim_next(
        self, queue: str, *, worker: str, lease_seconds: float, max_memory: int | None = None
    ) -> Claim | None:
        due = self.next_due(queue, max_memory)
        return None if due is None else self.claim(due.record_id, worker=worker, lease_seconds=lease_seconds)

    def renew(self, claim: Claim, *, lease_seconds: float) -> None:
        """Extend the lease; raises LeaseLost if another worker claimed the work."""
        self._change(claim, lease_expires_at=self.now + timedelta(seconds=lease_seconds))

    def verify(self, claim: Claim, *, reached: float = 0.0) -> None:
        """Something of the work is written in this same transaction; raises LeaseLost if it may not be.

        `reached` is the share of the whole that is done: where no attempt has ever been, earlier losses are forgiven.
        """
        self._change(claim, state="claimed")
        further = update(Work).where(Work.record_id == claim.record_id, Work.reached < reached)
        self.session.execute(further.values(losses=[], reached=reached))

    def release(self, claim: Claim, *, after_seconds: float = 0.0) -> None:
        """Let the work be claimed again without counting the attempt. Raises LeaseLost."""
        due = self.now + timedelta(seconds=after_seconds)
        queue = self._change(claim, state="waiting", attempts=claim.attempts - 1, not_before=due)
        if after_seconds == 0:
            self._permit(claim.record_id, claim.kind, queue)

    def retry(self, claim: Claim, reason: str) -> None:
        """The work's process was lost: it is claimed again, later each time. Raises LeaseLost."""
        self._change(claim, state="claimed")
        self._release(Work.record_id == claim.record_id, reason=reason)

    def postpone(self, claim: Claim, *, not_before: datetime) -> None:
        """The work is to be done again at another time. Raises LeaseLost."""
        self._change(claim, state="waiting", losses=[], not_before=not_before)

    def block(self, claim: Claim) -> None:
        """Other records must be inspected, or its pieces done, first; this was no attempt. Raises LeaseLost."""
        self._change(claim, state="blocked", attempts=claim.attempts - 1, not_before=self.now)

    def unblock(self, record_ids: Iterable[str]) -> None:
        """Let these be claimed, which are due from now on; the claim checks again whether they can be done."""
        blocked = update(Work).where(Work.record_id.in_(list(record_ids)), Work.state == "blocked")
        opened = blocked.values(state="waiting", not_before=self.now)
        for row in self.session.execute(opened.returning(Work.record_id, Work.kind, Work.queue)):
            self._permit(*row)

    def finish(self, claim: Claim) -> None:
        """The result is written in this same transaction; raises LeaseLost if it may not be."""
        self._change(claim, state="done")

    def withdraw(self, record_id: str) -> bool:
        """Close work that is not claimed, or whose lease has ended; False if it is claimed."""
        unclaimed = or_(Work.state.in_(("waiting", "blocked")), self._expired)
        closed = update(Work).where(Work.record_id == record_id, unclaimed).values(state="done")
        return self.session.scalar(closed.returning(Work.record_id)) is not None

    def reopen(self, record_id: str, *, queue: str | None = None) -> bool:
        """Open work again that is done, or make waiting work due, perhaps in another queue; False if it is claimed."""
        reopened = self.session.execute(
            update(Work)
            .where(Work.record_id == record_id, Work.state != "claimed")
            .values(state="waiting", attempts=0, losses=[], not_before=self.now)
            .values({} if queue is None else {"queue": queue, "turn": first_turn(self.session, queue)})
            .returning(Work.record_id, Work.kind, Work.queue)
        ).one_or_none()
        if reopened is not None:
            self._permit(*reopened)
        return reopened is not None

    def has_expired(self) -> bool:
        return self.session.scalar(select(Work.record_id).where(self._expired).limit(1)) is not None

    def release_expired(self) -> list[str]:
        """Work whose lease has ended waits again; returns the records."""
        return self._release(self._expired)

    def release_held_by(self, workers: Collection[str], reason: str) -> list[str]:
        """Work of workers that are known to be gone waits again, without waiting for their leases to end."""
        return self._release(Work.worker.in_(list(workers)), reason=reason)

    def to_cancel(self) -> Sequence[Job]:
        """Jobs whose work is not claimed and that are to be cancelled, or have waited for as long as they may."""
        claimed = select(Work.record_id).where(Work.state == "claimed")
        overdue = and_(Job.status == "queued", Job.started_at.is_(None), Job.cancel_at < self.now)
        return self.session.scalars(
            select(Job).where(or_(Job.status == "cancelling", overdue), Job.id.not_in(claimed))
        ).all()

    @property
    def _expired(self) -> ColumnElement[bool]:
        return and_(Work.state == "claimed", Work.lease_expires_at < self.now)

    def _release(self, *which: ColumnElement[bool], reason: str = SILENT) -> list[str]:
        held = select(Work).where(Work.state == "claimed", *which).execution_options(populate_existing=True)
        released = self.session.scalars(held).all()
        for work in released:
            work.losses = [*work.losses, reason]
            pause = BACK_OFF_S[min(len(work.losses), len(BACK_OFF_S)) - 1]
            work.state, work.not_before = "waiting", self.now + timedelta(seconds=pause)
            if pause == 0:
                self._permit(work.record_id, work.kind, work.queue)
        self.session.flush()
        return [work.record_id for work in released]

    def _permit(self, record_id: str, kind: str, queue: str) -> None:
        AfterCommit.of(self.session).permits.append(Permit(record_id, kind, queue))

    def _change(self, claim: Claim, **values: object) -> str:
        queue: str | None = self.session.scalar(
            update(Work)
            .where(Work.record_id == claim.record_id, Work.state == "claimed", Work.token == claim.token)
            .values(**values)
            .returning(Work.queue)
        )
        if queue is not None:
            return queue
        if self.session.scalar(select(Work.record_id).where(Work.record_id == claim.record_id)) is None:
            raise WorkGone("lease_lost", f"{claim} has gone with its batch")
        raise LeaseLost("lease_lost", f"another worker owns {claim.record_id} now")
