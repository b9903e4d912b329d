"""The work that is open: claimed by compare-and-set, held by a lease, fenced by a token that grows with every claim.

The row is the truth and the broker a doorbell: a lost or doubled message is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, case, or_, select, update
from sqlalchemy.orm import Session

from service.registry.contract import WORK_KINDS
from service.registry.errors import LeaseLost
from service.registry.repositories.records import now
from service.registry.tables import Work


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a record and to write its result, until the lease ends or somebody claims it anew."""

    record_id: str
    kind: str
    token: int
    attempts: int


class WorkQueue:
    """Open, claim, renew, hand back, finish."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def open(self, record_id: str, *, kind: str | None = None) -> None:
        """There is something to do for this new record; without `kind` what its id says."""
        kind = kind or WORK_KINDS[record_id.partition("_")[0]]
        self.session.add(Work(record_id=record_id, kind=kind, state="waiting", attempts=0, token=0, rung_at=now()))

    def of(self, record_id: str) -> Work:
        """The work of this record."""
        return self.session.get_one(Work, record_id)

    def kind_of(self, record_id: str) -> str | None:
        """What kind of work this is; None if the record is gone."""
        return self.session.scalar(select(Work.kind).where(Work.record_id == record_id))

    def claim(self, record_id: str, *, worker: str, lease_seconds: float) -> Claim | None:
        """Take the work if nobody holds it; None if it is done, gone, or held under a living lease."""
        moment = now()
        free = or_(Work.state == "waiting", and_(Work.state == "claimed", Work.lease_expires_at < moment))
        claimed = self.session.execute(
            update(Work)
            .where(Work.record_id == record_id, free)
            .values(
                state="claimed",
                token=Work.token + 1,
                attempts=Work.attempts + 1,
                worker=worker,
                lease_expires_at=moment + timedelta(seconds=lease_seconds),
            )
            .returning(Work.kind, Work.token, Work.attempts)
        ).one_or_none()
        return None if claimed is None else Claim(record_id, *claimed)

    def renew(self, claim: Claim, *, lease_seconds: float) -> None:
        """Go on holding the work; raises LeaseLost if somebody else claimed it."""
        self._mine(claim, lease_expires_at=now() + timedelta(seconds=lease_seconds))

    def hand_back(self, claim: Claim, *, counts: bool) -> None:
        """Give the work up undone; `counts` says whether this was an attempt. Raises LeaseLost."""
        self._mine(claim, state="waiting", rung_at=now(), attempts=claim.attempts - (0 if counts else 1))

    def finish(self, claim: Claim) -> None:
        """The result is written in this same transaction; raises LeaseLost if it may not be."""
        self._mine(claim, state="done")

    def withdraw(self, record_id: str) -> bool:
        """Close work that nobody has begun; False if somebody holds it."""
        withdrawn = self.session.execute(
            update(Work)
            .where(Work.record_id == record_id, Work.state == "waiting")
            .values(state="done")
            .returning(Work.record_id)
        ).one_or_none()
        return withdrawn is not None

    def next_waiting(self, kind: str) -> str | None:
        """The oldest work of this kind that nobody has begun."""
        waiting = select(Work.record_id).where(Work.kind == kind, Work.state == "waiting")
        return self.session.scalar(waiting.order_by(Work.record_id).limit(1))

    def overdue(self, *, ring_after_seconds: float, limit: int) -> list[tuple[str, str]]:
        """Return `(record_id, kind)` of work that waits unheard or whose lease ended, and note that it is rung now."""
        moment = now()
        unheard = Work.rung_at < moment - timedelta(seconds=ring_after_seconds)
        expired = and_(Work.state == "claimed", Work.lease_expires_at < moment)
        overdue = and_(unheard, or_(Work.state == "waiting", expired))
        # Expired leases first: somebody has already waited for them.
        order = case((Work.state == "claimed", 0), else_=1)
        chosen = select(Work.record_id).where(overdue).order_by(order, Work.rung_at).limit(limit)
        rung = (
            update(Work).where(Work.record_id.in_(chosen)).values(rung_at=moment).returning(Work.record_id, Work.kind)
        )
        return sorted((record_id, kind) for record_id, kind in self.session.execute(rung))

    def _mine(self, claim: Claim, **values: object) -> None:
        held = self.session.execute(
            update(Work)
            .where(Work.record_id == claim.record_id, Work.state == "claimed", Work.token == claim.token)
            .values(**values)
            .returning(Work.record_id)
        ).one_or_none()
        if held is None:
            raise LeaseLost("lease_lost", f"another worker owns {claim.record_id} now")
