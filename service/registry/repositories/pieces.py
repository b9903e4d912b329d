"""Pieces: the shards of a batch, which workers claim by themselves, and the fan-in that the last of them opens.

A piece that ends first locks the work of its parent: of two that end at once, or beside a parent that suspends, one
sees that nothing is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, delete, func, select, update

from service.registry.repositories.records import Records
from service.registry.repositories.work import Claim, WorkQueue
from service.registry.tables import Json, Piece, Work, new_id


@dataclass(frozen=True, slots=True)
class NewPiece:
    """A piece to be inserted; its name is unique within its parent.

    Attributes:
        order: what a child is to do.
        work_seconds: as it is planned; only its ratio to the others' counts.
    """

    name: str
    order: Json
    work_seconds: float = 1.0


class Pieces(Records[Piece]):
    table = Piece
    noun = "piece"

    def add_all(self, parent_id: str, pieces: Sequence[NewPiece], *, queue: str) -> None:
        rows = [
            Piece(
                id=new_id("shd"),
                parent_id=parent_id,
                place=place,
                name=piece.name,
                order=piece.order,
                status="waiting",
                work_seconds=piece.work_seconds,
                reached=0.0,
                created_at=self.now,
            )
            for place, piece in enumerate(pieces)
        ]
        self.session.add_all(rows)
        WorkQueue(self.session).open_all([row.id for row in rows], queue=queue, flow=parent_id)
        self.session.flush()

    def of(self, parent_id: str) -> Sequence[Piece]:
        return self.session.scalars(select(Piece).where(Piece.parent_id == parent_id).order_by(Piece.place)).all()

    def digests(self, parent_id: str) -> Sequence[str | None]:
        return self.session.scalars(
            select(Piece.sha256).where(Piece.parent_id == parent_id).order_by(Piece.place)
        ).all()

    def lock_parent(self, piece_id: str) -> str:
        """Lock the work of the piece's parent, before anything that ends the piece is written; returns the parent.

        Raises NotFound where the piece is gone with its parent.
        """
        parent_id = self.get(piece_id).parent_id
        self.session.execute(select(Work.record_id).where(Work.record_id == parent_id).with_for_update())
        return parent_id

    def finish(self, piece_id: str, *, sha256: str | None, result: Json | None = None) -> None:
        """The piece is done; the last one of its parent opens the fan-in."""
        self._end(piece_id, status="done", sha256=sha256, result=result, reached=1.0)

    def fail(self, piece_id: str, error: Json) -> None:
        """The piece has no result; what becomes of its parent is decided in the fan-in."""
        self._end(piece_id, status="failed", error=error)

    def _end(self, piece_id: str, **values: object) -> None:
        parent_id = self.lock_parent(piece_id)
        self.session.execute(update(Piece).where(Piece.id == piece_id).values(**values))
        if not self.open_of(parent_id):
            WorkQueue(self.session).unblock([parent_id])

    def open_of(self, parent_id: str) -> int:
        left = select(func.count()).where(Piece.parent_id == parent_id, Piece.status == "waiting")
        return self.session.scalar(left) or 0

    def suspend_parent(self, claim: Claim) -> None:
        """The parent waits until its last piece has ended, as it may have; this was no attempt. Raises LeaseLost."""
        work = WorkQueue(self.session)
        work.block(claim)
        if not self.open_of(claim.record_id):
            work.unblock([claim.record_id])

    def reach(self, piece_id: str, share: float) -> None:
        """So much of the piece is done; it never falls back."""
        further = update(Piece).where(Piece.id == piece_id, Piece.reached < share, Piece.status == "waiting")
        self.session.execute(further.values(reached=share))

    def progress(self, parent_id: str) -> float:
        """The share of the planned work of all pieces that is done; 1.0 where there are none."""
        done = case((Piece.status == "waiting", Piece.reached), else_=1.0) * Piece.work_seconds
        sums = select(func.sum(done), func.sum(Piece.work_seconds)).where(Piece.parent_id == parent_id)
        reached, whole = self.session.execute(sums).one()
        return float(reached / whole) if whole else 1.0

    def drop(self, parent_id: str) -> list[str]:
        """The parent has ended, and needs none of them; returns their files, which something else may name."""
        ids = select(Piece.id).where(Piece.parent_id == parent_id)
        self.session.execute(delete(Work).where(Work.record_id.in_(ids)))
        dropped = delete(Piece).where(Piece.parent_id == parent_id).returning(Piece.sha256)
        return [digest for digest in self.session.scalars(dropped) if digest]

    def close(self, parent_id: str, *, behind: int = -1) -> None:
        """Pieces behind this place are worked on no more; those that have not ended fail, without an error."""
        closed = (Piece.parent_id == parent_id, Piece.place > behind)
        self.session.execute(delete(Work).where(Work.record_id.in_(select(Piece.id).where(*closed))))
        self.session.execute(update(Piece).where(*closed, Piece.status == "waiting").values(status="failed"))
