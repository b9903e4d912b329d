"""The work queue: work is claimed by compare-and-set, held by a lease, fenced by a token that grows with every claim.

The row is the truth: a lost or doubled message of the broker is harmless. Times are the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session, aliased

from service.registry.clock import database_now
from service.registry.contract import ANY_DEVICE, WORK_KINDS
from service.registry.errors import LeaseLost
from service.registry.tables import Work

#: How long work waits after its process was lost for the first, second, … time in a row; the last one repeats.
BACK_OFF_S = (0.0, 5.0, 15.0, 45.0, 120.0, 300.0)
SILENT = "its worker went silent"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a record and to write its result, until the lease ends or another worker claims it.

    Attributes:
        losses: why earlier processes were lost, since the work last got further.
    """

    record_id: str
    kind: str
    token: int
    attempts: int
    losses: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class WakeUp:
    """Work that may be claimed once the transaction is committed; a message then wakes a worker up."""

    record_id: str
    queue: str


class WorkQueue:
    """Open, claim, renew, hand back, finish."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.wake_ups: list[WakeUp] = []

    def open(
        self,
        record_id: str,
        *,
        kind: str | None = None,
        queue: str | None = None,
        blocked: bool = False,
        memory_bytes: int = 0,
        concurrency_key: str | None = None,
        not_before: datetime | None = None,
    ) -> Work:
        """Open work for this new record; without `kind` and `queue` what its id says.

        Args:
            blocked: other records must be inspected first; `unblock` opens it when they are.
            memory_bytes: what it needs, by an estimate.
            concurrency_key: of work with the same key one piece is done at a time, by whichever worker.
        """
        kind = kind or WORK_KINDS[record_id.partition("_")[0]]
        queue = queue or (kind if kind in ("inspect", "predict", "deliver") else ANY_DEVICE)
        work = Work(
            record_id=record_id,
            kind=kind,
            queue=queue,
            state="blocked" if blocked else "waiting",
            not_before=not_before or database_now(self.session),
            memory_bytes=memory_bytes,
            concurrency_key=concurrency_key,
            attempts=0,
            token=0,
            losses=[],
        )
        self.session.add(work)
        if not blocked and not_before is None:
            self.wake_ups.append(WakeUp(record_id, queue))
        return work

    def of(self, record_id: str) -> Work:
        """The work of this record."""
        return self.session.get_one(Work, record_id)

    def claim(self, record_id: str, *, worker: str, lease_seconds: float) -> Claim | None:
        """Claim the work unless it, or other work with its concurrency key, is claimed.

        None if it is blocked, done, gone, not yet due, or under a living lease.
        """
        self._release(Work.record_id == record_id)
        moment = database_now(self.session)
        claimed = self.session.execute(
            update(Work)
            .where(Work.record_id == record_id, Work.state == "waiting", Work.not_before <= moment, _free(moment))
            .values(
                state="claimed",
                token=Work.token + 1,
                attempts=Work.attempts + 1,
                worker=worker,
                lease_expires_at=moment + timedelta(seconds=lease_seconds),
            )
            .returning(Work.kind, Work.token, Work.attempts, Work.losses)
        ).one_or_none()
        return None if claimed is None else Claim(record_id, *claimed)

    def claim_next(
        self,
        kind: str,
        *,
        queues: Collection[str],
        worker: str,
        lease_seconds: float,
        memory_bytes: Mapping[str, int] | None = None,
    ) -> Claim | None:
        """Take the oldest work of this kind that is due in one of these queues; None if there is none.

        Args:
            memory_bytes: by queue, how much the work may need; without limit where a queue is not named.
        """
        record_id = self.next_due(kind, queues=queues, memory_bytes=memory_bytes)
        return None if record_id is None else self.claim(record_id, worker=worker, lease_seconds=lease_seconds)

    def next_due(
        self, kind: str, *, queues: Collection[str], memory_bytes: Mapping[str, int] | None = None
    ) -> str | None:
        """The oldest work of this kind that may be claimed now."""
        moment = database_now(self.session)
        # Thousands of messages may wait for hours, and little else ever waits for a moment.
        messages = kind == WORK_KINDS["msg"]
        order = Work.not_before if messages else Work.record_id
        for queue in queues:  # one after the other: an index that begins with the queue ends at the first row
            due = [Work.queue == queue, Work.not_before <= moment, *([_free(moment)] if messages else [])]
            if memory_bytes is not None and queue in memory_bytes:
                due.append(Work.memory_bytes <= memory_bytes[queue])
            oldest = select(Work.record_id).where(Work.state == "waiting", Work.kind == kind, *due)
            found = self.session.scalar(oldest.order_by(order).limit(1))
            if found is not None:
                return found
        return None

    def renew(self, claim: Claim, *, lease_seconds: float) -> None:
        """Extend the lease; raises LeaseLost if another worker claimed the work."""
        moment = database_now(self.session)
        self._mine(claim, lease_expires_at=moment + timedelta(seconds=lease_seconds))

    def prove(self, claim: Claim, *, reached: float = 0.0) -> None:
        """Something of the work is written in this same transaction; raises LeaseLost if it may not be.

        Args:
            reached: the share of the whole that is done. Where no attempt has ever been, earlier losses are forgiven.
        """
        self._mine(claim, state="claimed")
        further = update(Work).where(Work.record_id == claim.record_id, Work.reached < reached)
        self.session.execute(further.values(losses=[], reached=reached))

    def hand_back(self, claim: Claim, *, after_seconds: float = 0.0) -> None:
        """Release the work without counting the attempt. Raises LeaseLost."""
        due = database_now(self.session) + timedelta(seconds=after_seconds)
        queue = self._mine(claim, state="waiting", attempts=claim.attempts - 1, not_before=due)
        if after_seconds == 0:
            self.wake_ups.append(WakeUp(claim.record_id, queue))

    def lose(self, claim: Claim, reason: str) -> float:
        """The work's process was lost: it waits, longer each time. Returns for how many seconds; raises LeaseLost."""
        losses = [*self.session.scalars(select(Work.losses).where(Work.record_id == claim.record_id)).one(), reason]
        pause = _pause(losses)
        due = database_now(self.session) + timedelta(seconds=pause)
        queue = self._mine(claim, state="waiting", losses=losses, not_before=due)
        if pause == 0:
            self.wake_ups.append(WakeUp(claim.record_id, queue))
        return pause

    def postpone(self, claim: Claim, *, not_before: datetime) -> None:
        """The work is to be done again at another time. Raises LeaseLost."""
        self._mine(claim, state="waiting", losses=[], not_before=not_before)

    def block(self, claim: Claim) -> None:
        """Other records must be inspected first, and this was no attempt. Raises LeaseLost."""
        self._mine(claim, state="blocked", attempts=claim.attempts - 1)

    def unblock(self, record_ids: Iterable[str]) -> None:
        """Let these be claimed; the claim checks again whether they can be done."""
        blocked = update(Work).where(Work.record_id.in_(list(record_ids)), Work.state == "blocked")
        freed = self.session.execute(blocked.values(state="waiting").returning(Work.record_id, Work.queue))
        self.wake_ups += [WakeUp(*row) for row in freed]

    def finish(self, claim: Claim) -> None:
        """The result is written in this same transaction; raises LeaseLost if it may not be."""
        self._mine(claim, state="done")

    def withdraw(self, record_id: str) -> bool:
        """Close work that is not claimed, or whose lease has ended; False if it is claimed."""
        ended = and_(Work.state == "claimed", Work.lease_expires_at < database_now(self.session))
        withdrawn = self.session.execute(
            update(Work)
            .where(Work.record_id == record_id, or_(Work.state.in_(("waiting", "blocked")), ended))
            .values(state="done")
            .returning(Work.record_id)
        ).one_or_none()
        return withdrawn is not None

    def reopen(self, record_id: str) -> bool:
        """Open work again that is done, or make waiting work due; False if it is claimed."""
        queue = self.session.scalar(
            update(Work)
            .where(Work.record_id == record_id, Work.state != "claimed")
            .values(state="waiting", attempts=0, losses=[], not_before=database_now(self.session))
            .returning(Work.queue)
        )
        if queue is not None:
            self.wake_ups.append(WakeUp(record_id, queue))
        return queue is not None

    def has_expired(self) -> bool:
        """Whether any lease has ended."""
        ended = Work.lease_expires_at < database_now(self.session)
        return self.session.scalar(select(Work.record_id).where(Work.state == "claimed", ended).limit(1)) is not None

    def release_expired(self) -> list[str]:
        """Work whose lease has ended waits again; returns the records."""
        return self._release(Work.lease_expires_at < database_now(self.session))

    def release_held_by(self, workers: Collection[str], reason: str) -> list[str]:
        """Work of workers that are known to be gone waits again, without waiting for their leases to end."""
        return self._release(Work.worker.in_(list(workers)), reason=reason, expired_only=False)

    def _release(self, *which: ColumnElement[bool], reason: str = SILENT, expired_only: bool = True) -> list[str]:
        moment = database_now(self.session)
        held = select(Work).where(Work.state == "claimed", *which)
        if expired_only:
            held = held.where(Work.lease_expires_at < moment)
        released = self.session.scalars(held.execution_options(populate_existing=True)).all()
        for work in released:
            work.losses = [*work.losses, reason]
            pause = _pause(work.losses)
            work.state, work.not_before = "waiting", moment + timedelta(seconds=pause)
            if pause == 0:
                self.wake_ups.append(WakeUp(work.record_id, work.queue))
        self.session.flush()
        return [work.record_id for work in released]

    def _mine(self, claim: Claim, **values: object) -> str:
        queue: str | None = self.session.scalar(
            update(Work)
            .where(Work.record_id == claim.record_id, Work.state == "claimed", Work.token == claim.token)
            .values(**values)
            .returning(Work.queue)
        )
        if queue is None:
            raise LeaseLost("lease_lost", f"another worker owns {claim.record_id} now")
        return queue


def _free(moment: datetime) -> ColumnElement[bool]:
    """No other work with the same concurrency key is claimed under a living lease."""
    other = aliased(Work)
    held = select(other.concurrency_key).where(
        other.state == "claimed", other.concurrency_key.is_not(None), other.lease_expires_at >= moment
    )
    return or_(Work.concurrency_key.is_(None), Work.concurrency_key.not_in(held))


def _pause(losses: Sequence[str]) -> float:
    return BACK_OFF_S[min(len(losses), len(BACK_OFF_S)) - 1]
