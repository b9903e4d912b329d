"""The tables of the registry, and nothing that queries them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Json = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite drops the zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a naive time is a defect of the caller."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime reached the database")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Put the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Digest(TypeDecorator[str]):
    """The SHA-256 of a stored file, which stays for as long as any column of this type names it."""

    impl = String(64)
    cache_ok = True


#: In a column's `info`: whether it keeps the file that it names, where neither its type nor its name says so rightly.
KEEPS_FILE = "keeps_file"


class Base(DeclarativeBase):
    """Names of constraints are fixed, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), Json: JSON(), list[Any]: JSON()}  # noqa: RUF012


class Record:
    """What every record has."""

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[Json | None]
    created_at: Mapped[datetime]


class Dataset(Record, Base):
    """A labelled dataset: the file as sent, and the prepared copy in which the splits are fixed."""

    __tablename__ = "datasets"

    name: Mapped[str] = mapped_column(String(200))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    options: Mapped[Json]  # what the sender said: format, roles, seen_by_model
    profile: Mapped[Json | None]  # what inspection found
    prepared_sha256: Mapped[str | None] = mapped_column(Digest, index=True)


class Model(Record, Base):
    """A classifier: the file as sent or calibrated, and the served copy with the standard outputs."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[int] = mapped_column(default=1)
    origin: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    options: Mapped[Json]
    profile: Mapped[Json | None]
    served_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    calibrated: Mapped[bool] = mapped_column(default=False)
    parent_id: Mapped[str | None] = mapped_column(String(40))
    job_id: Mapped[str | None] = mapped_column(String(40))


class Job(Record, Base):
    """One calibration: the request, where it stands, and what came of it."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_status", "status"),)

    model_id: Mapped[str] = mapped_column(String(40), index=True)
    dataset_id: Mapped[str] = mapped_column(String(40), index=True)
    request: Mapped[Json]
    stage: Mapped[str | None] = mapped_column(String(16))
    progress: Mapped[Json]
    history: Mapped[list[Any]]
    verdict: Mapped[str | None] = mapped_column(String(16))
    promoted: Mapped[bool] = mapped_column(default=False)
    calibrated_model_id: Mapped[str | None] = mapped_column(String(40))
    plan: Mapped[Json | None]  # what a dry run found
    report_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    diagram_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    page_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Batch(Record, Base):
    """Predictions over a stored dataset."""

    __tablename__ = "batches"

    model_id: Mapped[str] = mapped_column(String(40), index=True)
    dataset_id: Mapped[str] = mapped_column(String(40), index=True)
    options: Mapped[Json]
    progress: Mapped[Json]
    num_rows: Mapped[int | None]
    results_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Calibrator(Record, Base):
    """A calibrator fitted on scores that were sent without their model."""

    __tablename__ = "calibrators"

    name: Mapped[str] = mapped_column(String(200))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    options: Mapped[Json]  # what the sender said: method, class_names, roles
    profile: Mapped[Json | None]  # what was found in the file: num_samples, num_classes, class_names, input
    method: Mapped[str] = mapped_column(String(40))  # what was asked for, and once it is fitted what it is
    parameters: Mapped[Json | None]
    report: Mapped[Json | None]  # an excerpt of the report, for the record
    report_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    diagram_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    page_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    onnx_sha256: Mapped[str | None] = mapped_column(Digest, index=True)


class Look(Base):
    """One look at the test rows of a file, by a job or calibrator; kept by the file's digest, so it outlives both."""

    __tablename__ = "looks"
    __table_args__ = (UniqueConstraint("dataset_sha256", "number"),)

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_sha256: Mapped[str] = mapped_column(String(64), info={KEEPS_FILE: False})
    number: Mapped[int]  # how many looks came before


class Upload(Base):
    """A file that arrives in pieces: what was announced; how much of it is here, the file itself tells."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


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
    losses: Mapped[list[Any]]  # why its process was lost, since it last got further
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
    queues: Mapped[list[Any]]
    gpu: Mapped[bool]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class Checkpoint(Base):
    """What a job has saved to go on from, entry by entry; gone when it ends."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    saved_at: Mapped[datetime]


class Event(Base):
    """One line of what happened to a job."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # grows by one within the job
    type: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime]
    data: Mapped[Json]


class Delivery(Record, Base):
    """A message to a job's webhook: written with the change it tells of, delivered by a worker."""

    __tablename__ = "deliveries"

    job_id: Mapped[str] = mapped_column(String(40), index=True)
    type: Mapped[str] = mapped_column(String(40))
    url: Mapped[str] = mapped_column(String(2000))
    body: Mapped[str] = mapped_column(Text)  # the very text that is signed
    attempts: Mapped[list[Any]]
    delivered_at: Mapped[datetime | None]


class PublishedVersion(Base):
    """A version of a published name."""

    __tablename__ = "published_versions"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    is_default: Mapped[bool]
    created_at: Mapped[datetime]


class UnloadedName(Base):
    """A name or model id that was taken out of service by hand."""

    __tablename__ = "unloaded_names"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    since: Mapped[datetime]


class IdempotencyKey(Base):
    """The answer that a request with this key was given, so that it can be given again."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(300), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(Text)  # empty while the request is still running
    held_until: Mapped[datetime | None]  # of a running request: when its process must have died
    created_at: Mapped[datetime]


def digest_columns(metadata: MetaData = Base.metadata) -> tuple[Column[Any], ...]:
    """Every column that names a stored file: a file may go when none of them does.

    A column whose name says that it is a digest counts, too, so that one that was typed otherwise loses no files.
    """
    columns = [column for table in metadata.sorted_tables for column in table.columns]
    return tuple(column for column in columns if column.info.get(KEEPS_FILE, _is_digest(column)))


def _is_digest(column: Column[Any]) -> bool:
    return isinstance(column.type, Digest) or column.name.endswith(("sha256", "digest"))
