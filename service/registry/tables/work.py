"""Tables of open work: its worker, its checkpoints, and the messages about its end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.registry.tables.columns import Base, Digest, Json, Record


class Work(Base):
    """A piece of work a worker may claim: an inspection, a job, a batch, a calibrator to fit, a message to deliver."""

    __tablename__ = "work"
    __table_args__ = (
        Index("ix_work_waiting", "state", "kind", "queue", "record_id"),
        Index("ix_work_due", "state", "kind", "queue", "not_before"),
        Index("ix_work_leases", "state", "lease_expires_at"),
    )

    record_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    queue: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))  # blocked (its inputs are inspected) | waiting | claimed | done
    not_before: Mapped[datetime]  # waiting work is left alone until then
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


class WorkerProcess(Base):
    """A worker that lives, or lately did: what it takes, and where it runs."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    machine: Mapped[str] = mapped_column(String(100), index=True)  # whose process ids mean the same
    process: Mapped[str] = mapped_column(String(60))  # process id and start: an id alone is given again
    queues: Mapped[list[str]]
    gpu: Mapped[bool]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    release: Mapped[str | None] = mapped_column(String(40))  # of this service; None before 0.1.0 said it
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
