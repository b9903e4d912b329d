"""Tables of the records that clients see."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from service.registry.tables.columns import Base, Digest, Entity, Json, Record


class Uploaded(Record):
    """What came as a file."""

    __abstract__ = True

    name: Mapped[str] = mapped_column(String(200), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    options: Mapped[Json]  # as sent
    profile: Mapped[Json | None]  # what was found in the file


class Run(Record):
    """What reads a model and a dataset."""

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
        """Whether its rows have labels; before inspection they may."""
        return self.profile is None or self.profile.get("labelled") is not False

    @property
    def lacks_provenance(self) -> bool:
        """Whether inspection has found no splits, and nobody has said which rows the model was trained on."""
        found = None if self.profile is None else self.profile.get("seen_by_model")
        return found == "unknown" and self.options.get("seen_by_model") != "unknown"

    @property
    def awaits_provenance(self) -> bool:
        """Whether inspection has yet to find splits, since nobody has said a word about them."""
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
    stage: Mapped[str | None] = mapped_column(String(16))
    history: Mapped[list[Json]]
    verdict: Mapped[str | None] = mapped_column(String(16))
    promoted: Mapped[bool] = mapped_column(default=False)
    shown: Mapped[bool | None]
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

    @property
    def has_results(self) -> bool:
        """Whether there is anything to read."""
        return self.results_sha256 is not None or self.manifest_sha256 is not None


class Calibrator(Reported, Uploaded):
    """A calibrator fitted on scores that were sent without their model."""

    __tablename__ = "calibrators"

    method: Mapped[str] = mapped_column(String(40))  # what was asked for, and once it is fitted what it is
    parameters: Mapped[Json | None]
    report: Mapped[Json | None]  # an excerpt of the report, for the record
    onnx_sha256: Mapped[str | None] = mapped_column(Digest, index=True)


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
