"""Tables of open work: its worker, its checkpoints, and the messages about its end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.registry.tables.columns import Base, Digest, Json, Record


class Work(Base):
    """Work that a worker may claim: an inspection, a job or its piece, a calibrator to fit, a message to deliver."""

    __tablename__ = "work"
    __table_args__ = (
        Index("ix_work_turns", "state", "queue", "turn", "record_id"),
        Index("ix_work_due", "state", "queue", "not_before", "kind"),
        Index("ix_work_leases", "state", "lease_expires_at"),
        Index("ix_work_flows", "flow", "queue"),
    )

    record_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    queue: Mapped[str] = mapped_column(String(32))
    # blocked (its inputs are inspected, or its pieces are worked on) | waiting | claimed | done
    state: Mapped[str] = mapped_column(String(16))
    flow: Mapped[str] = mapped_column(String(40), server_default="")  # whose turns in the queue it takes
    turn: Mapped[float] = mapped_column(default=0.0, server_default="0")  # its place in the queue: least first
    requires: Mapped[str | None] = mapped_column(String(200))  # the versions of the workers that may take it
    not_before: Mapped[datetime]  # waiting work is left alone until then; blocked work is blocked since then
    memory_bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # what it needs, by an estimate
    concurrency_key: Mapped[str | None] = mapped_column(
        String(255)
    )  # of work with the same key one piece is done at once
    attempts: Mapped[int] = mapped_column(default=0)
    losses: Mapped[list[str]]  # why its process was lost, since it last got further
    reached: Mapped[float] = mapped_column(default=0.0)  # the largest share of the whole that was ever done
    token: Mapped[int] = mapped_column(default=0)  # fencing: grows with every claim
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None]


class Piece(Record):
    """A part of a job or batch that is claimed by itself: the training of a candidate, or a shard of rows."""

    __tablename__ = "pieces"
    __table_args__ = (Index("ix_pieces_parent", "parent_id", "name", unique=True),)

    # status: waiting | done | failed
    parent_id: Mapped[str] = mapped_column(String(40))
    place: Mapped[int]  # among the pieces of its parent
    name: Mapped[str] = mapped_column(String(64))  # within its parent
    order: Mapped[Json]  # what a child is to do
    work_seconds: Mapped[float] = mapped_column(default=0.0)  # as it was planned: its part in the progress
    reached: Mapped[float] = mapped_column(default=0.0)  # the share of it that is done
    result: Mapped[Json | None]
    sha256: Mapped[str | None] = mapped_column(Digest, index=True)  # the file that it has left


class WorkerProcess(Base):
    """A worker that lives, or lately did: what it takes, and where it runs."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    machine: Mapped[str] = mapped_column(String(100), index=True)  # whose process ids mean the same
    process: Mapped[str] = mapped_column(String(60))  # process id and start: an id alone is given again
    queues: Mapped[list[str]]
    gpu: Mapped[bool]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    release: Mapped[str | None] = mapped_column(String(40))  # of this service; None where it says none
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class Checkpoint(Base):
    """The saved state of a job, entry by entry; gone when the job ends."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    saved_at: Mapped[datetime]


class Delivery(Record):
    """A message to a job's webhook: written in the transaction of the change that it reports, delivered by a worker."""

    __tablename__ = "deliveries"

    job_id: Mapped[str] = mapped_column(String(40), index=True)
    type: Mapped[str] = mapped_column(String(40))
    url: Mapped[str] = mapped_column(String(2000))
    body: Mapped[str] = mapped_column(Text)  # the very text that is signed
    attempts: Mapped[list[Json]]
    delivered_at: Mapped[datetime | None]
