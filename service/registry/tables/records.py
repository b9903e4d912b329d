"""Tables of records, open work and its workers, names, keys, sessions and the evaluation ledger."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.registry.tables.columns import KEEPS_FILE, Base, Digest, Entity, Json, Record


class Uploaded(Record):
    """Record of a file."""

    __abstract__ = True

    name: Mapped[str] = mapped_column(String(200), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    options: Mapped[Json]  # as sent
    profile: Mapped[Json | None]  # what was found in the file


class Run(Record):
    """A run over a model and a dataset."""

    __abstract__ = True

    model_id: Mapped[str] = mapped_column(String(40), index=True)
    dataset_id: Mapped[str] = mapped_column(String(40), index=True)
    progress: Mapped[Json]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Reported:
    """The files of a report."""

    report_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    diagram_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    page_sha256: Mapped[str | None] = mapped_column(Digest, index=True)


class Dataset(Uploaded):
    """A dataset: the file as sent, and the prepared copy in which the splits of labelled rows are fixed."""

    __tablename__ = "datasets"

    prepared_sha256: Mapped[str | None] = mapped_column(Digest, index=True)

    @property
    def labelled(self) -> bool:
        """True where its rows have labels; before inspection they may."""
        return self.profile is None or self.profile.get("labelled") is not False

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are inputs; none before inspection, and of arrays and images."""
        columns = (self.profile or {}).get("columns")
        return [str(name) for name in columns] if isinstance(columns, list) else []

    @property
    def lacks_provenance(self) -> bool:
        """True where inspection has found no splits, and no word on which rows the model was trained on."""
        seen_by_model = None if self.profile is None else self.profile.get("seen_by_model")
        return seen_by_model == "unknown" and self.options.get("seen_by_model") != "unknown"

    @property
    def awaits_provenance(self) -> bool:
        """True where inspection has yet to find splits, since the upload has no word about them."""
        roles = self.options.get("roles")
        is_said = self.options.get("seen_by_model") or (isinstance(roles, dict) and roles.get("split"))
        return self.status == "inspecting" and not is_said


class Model(Uploaded):
    """A classifier: the file as sent or calibrated, and the served copy with the standard outputs."""

    __tablename__ = "models"

    version: Mapped[int] = mapped_column(default=1)
    origin: Mapped[str] = mapped_column(String(16))
    served_sha256: Mapped[str | None] = mapped_column(Digest, index=True)
    calibrated: Mapped[bool] = mapped_column(default=False)
    parent_id: Mapped[str | None] = mapped_column(String(40))
    job_id: Mapped[str | None] = mapped_column(String(40))
    seen_rows_sha256: Mapped[str | None] = mapped_column(Digest, index=True)  # of the rows that jobs trained it on
    seen_rows_key: Mapped[str | None] = mapped_column(String(32))  # without it that file tells nothing
    job_deleted_at: Mapped[datetime | None]  # when the job that made it was deleted, and with it the report


class Job(Reported, Run):
    """One calibration: the request, where it stands, and what came of it."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_status", "status"), Index("ix_jobs_finished_at", "finished_at"))

    request: Mapped[Json]
    publish_as: Mapped[str | None] = mapped_column(String(100), index=True)  # of the request
    cancel_at: Mapped[datetime | None]  # unless it has begun, by `cancel_after` of the request
    stage: Mapped[str | None] = mapped_column(String(16))
    history: Mapped[list[Json]]
    verdict: Mapped[str | None] = mapped_column(String(16))
    serves: Mapped[str | None] = mapped_column(String(16))
    significant: Mapped[bool | None]
    beats_simpler: Mapped[bool | None]
    calibrated_model_id: Mapped[str | None] = mapped_column(String(40))
    predictions_sha256: Mapped[str | None] = mapped_column(Digest, index=True)  # of the served model on the test rows
    plan: Mapped[Json | None]  # what a dry run found
    warnings: Mapped[list[Json]] = mapped_column(default=list)
    adjustments: Mapped[list[Json]] = mapped_column(default=list)

    @property
    def webhook(self) -> tuple[str, str] | None:
        """Where a message about the end goes, and the secret that signs it."""
        match self.request.get("webhook"):
            case {"url": str(url), "secret": str(secret)}:
                return url, secret
        return None


class JobMetadata(Base):
    """One of the words of its sender in a job's request, to find the job by."""

    __tablename__ = "job_metadata"
    __table_args__ = (Index("ix_job_metadata_value", "name", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))


class Batch(Run):
    """Predictions over a stored dataset."""

    __tablename__ = "batches"
    __table_args__ = (Index("ix_batches_finished_at", "finished_at"),)

    options: Mapped[Json]
    num_rows: Mapped[int | None]
    num_errors: Mapped[int | None]
    results_sha256: Mapped[str | None] = mapped_column(Digest, index=True)  # of a batch that is one file
    manifest_sha256: Mapped[str | None] = mapped_column(Digest, index=True)  # of one whose pieces hold its parts


class Calibrator(Reported, Uploaded):
    """A calibrator fitted on scores that were sent without their model."""

    __tablename__ = "calibrators"

    method: Mapped[str] = mapped_column(String(40))  # what was asked for, and once it is fitted what it is
    parameters: Mapped[Json | None]
    report: Mapped[Json | None]  # an excerpt of the report, for the record
    onnx_sha256: Mapped[str | None] = mapped_column(Digest, index=True)

    @property
    def model_id(self) -> str:
        """The id of the model that answers by it, where it was fitted on one score or several signals."""
        return f"mdl_{self.id.removeprefix('cal_')}"


class Upload(Entity):
    """A resumable upload, as announced; its offset is the length of its file."""

    __tablename__ = "uploads"

    bytes: Mapped[int] = mapped_column(BigInteger)


class Event(Base):
    """One line of what happened to a job."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # grows by one within the job
    type: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime]
    data: Mapped[Json]


class Work(Base):
    """Work that a worker may claim: an inspection, a job, a batch or its shard, a calibrator to fit, a message."""

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
    not_before: Mapped[datetime]  # waiting work is left alone until then; blocked work is blocked since then
    memory_bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # what it needs, by an estimate
    concurrency_key: Mapped[str | None] = mapped_column(String(255))  # of the same key one piece is done at once
    attempts: Mapped[int] = mapped_column(default=0)
    losses: Mapped[list[str]]  # why its process was lost, since it last got further
    reached: Mapped[float] = mapped_column(default=0.0)  # the largest share of the whole that was ever done
    token: Mapped[int] = mapped_column(default=0)  # fencing: grows with every claim
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None]


class Piece(Record):
    """A part of a batch that is claimed by itself: a shard of rows."""

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
    unfit: Mapped[str | None] = mapped_column(Text)  # why it can open no upload; None if it can, or has not tried yet
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


class PublishedVersion(Base):
    """A version of a published name."""

    __tablename__ = "published_versions"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    is_default: Mapped[bool]
    class_priors: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    newest: Mapped[int | None]  # the name's highest version ever, where that was deleted: no number is given twice
    created_at: Mapped[datetime]


class ServedChange(Base):
    """A note that other models, or none, may answer under this name or id from now on; numbered in order of commits."""

    __tablename__ = "served_changes"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    called: Mapped[str] = mapped_column(String(200))


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


class ApiKey(Base):
    """A key that an administrator has issued; its digest tells nobody the key."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]]
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    sha256: Mapped[str] = mapped_column(String(64), info={KEEPS_FILE: False})
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A session of the pages: without the id that the browser holds it reveals nothing of the key."""

    __tablename__ = "browser_sessions"

    id_digest: Mapped[str] = mapped_column(String(64), primary_key=True, info={KEEPS_FILE: False})
    sealed_key: Mapped[str] = mapped_column(Text)  # the key, under a pad that the session's id makes
    expires_at: Mapped[datetime]


class Evaluation(Base):
    """One evaluation of the test rows of a file, by a job or calibrator; kept by its digest, so it outlives both."""

    __tablename__ = "looks"
    __table_args__ = (UniqueConstraint("dataset_sha256", "number"),)

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_sha256: Mapped[str] = mapped_column(String(64), info={KEEPS_FILE: False})
    number: Mapped[int]  # how many evaluations came before
