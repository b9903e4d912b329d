"""Records: what a call answers, as clients see it."""

from __future__ import annotations

from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from service.registry.contract.requests import Method
from service.registry.contract.statuses import (
    BatchStatus,
    CalibratorStatus,
    DeliveryStatus,
    JobStatus,
    UploadStatus,
)
from service.registry.documents import (
    DatasetRoles,
    EventData,
    FeatureSpec,
    GuaranteesSummary,
    ImagePreprocessing,
    JsonObject,
    OutputSpec,
    Plan,
    Progress,
    SeenByModel,
    SplitCounts,
    Stage,
    Task,
    TensorSpec,
    Verdict,
)


class RecordError(BaseModel):
    """Why an upload was rejected or a job failed."""

    code: str
    message: str
    user_error: bool = Field(True, description="Whether the sender can mend it.")


class DatasetRecord(BaseModel):
    """A labelled dataset."""

    id: str
    name: str
    format: str | None
    bytes: int
    sha256: str
    status: UploadStatus
    error: RecordError | None = None
    num_samples: int | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    class_counts: dict[str, int] | None = None
    inputs: list[TensorSpec] | None = None
    roles: DatasetRoles | None = None
    seen_by_model: SeenByModel | None = None
    splits: SplitCounts | None = None
    warnings: list[str] = Field(default_factory=list)
    created_at: datetime


class UploadRecord(BaseModel):
    """A file that arrives in pieces; its id takes the place of a body, once."""

    id: str
    bytes: int = Field(description="How large the whole file is.")
    offset: int = Field(description="How much of it is here, safely; the next piece begins there.")
    created_at: datetime
    expires_at: datetime = Field(description="24 hours after the last byte.")


class ModelRecord(BaseModel):
    """A classifier, uploaded or calibrated."""

    id: str
    name: str
    version: int
    origin: Literal["uploaded", "calibrated"]
    format: str | None = Field(description="Null until inspection has looked at the content.")
    bytes: int
    sha256: str
    status: UploadStatus
    error: RecordError | None = None
    inputs: list[TensorSpec] | None = None
    output: OutputSpec | None = None
    task: Task | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    features: FeatureSpec | None = None
    trainable: bool | None = Field(None, description="False: only a calibrator can be fitted on top.")
    architecture: str | None = None
    preprocessing: ImagePreprocessing | None = None
    warnings: list[str] = Field(default_factory=list, description="What was passed over, or why it cannot be trained.")
    calibrated: bool
    parent_id: str | None = None
    job_id: str | None = None
    report_url: str | None = None
    guarantees: GuaranteesSummary | None = Field(None, description="What `max_error` and `coverage` can promise.")
    cost_factor: float | None = Field(None, description="Cost of an answer, as a multiple of the uploaded model's.")
    created_at: datetime


class StatusChange(BaseModel):
    """One line of a job's history."""

    status: str
    at: datetime


class JobRecord(BaseModel):
    """One calibration."""

    id: str
    model_id: str
    dataset_id: str
    method: Method
    status: JobStatus
    stage: Stage | None = None
    progress: Progress
    verdict: Verdict | None = None
    promoted: bool
    calibrated_model_id: str | None = None
    report_url: str | None = None
    dry_run: bool = False
    plan: Plan | None = Field(None, description="What a dry run found.")
    error: RecordError | None = None
    attempts: int
    history: list[StatusChange]
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class EventRecord(BaseModel):
    """One line of what happened to a job; ids grow by one within it."""

    id: int
    type: Literal["status", "stage", "progress", "candidate", "attempt"] = Field(
        description="`attempt`: a process or worker was lost or handed the job back, and the job continues."
    )
    at: datetime
    data: EventData


class DeliveryAttempt(BaseModel):
    """One try to deliver a message."""

    at: datetime
    status_code: int | None = None
    error: str | None = None
    seconds: float


class DeliveryRecord(BaseModel):
    """A message to a job's webhook; its id is the `webhook-id`, the same on every attempt."""

    id: str
    job_id: str
    type: str
    url: str
    status: DeliveryStatus
    attempts: list[DeliveryAttempt]
    next_attempt_at: datetime | None = Field(None, description="While it is pending.")
    created_at: datetime
    delivered_at: datetime | None = None


class BatchRecord(BaseModel):
    """Predictions over a stored dataset."""

    id: str
    model_id: str
    dataset_id: str
    status: BatchStatus
    progress: Progress
    num_rows: int | None = None
    results_url: str | None = None
    error: RecordError | None = None
    attempts: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class CalibratorRecord(BaseModel):
    """A calibrator fitted on scores, without their model."""

    id: str
    name: str
    bytes: int
    sha256: str
    status: CalibratorStatus
    error: RecordError | None = None
    input: Literal["logits", "probabilities"] | None = Field(None, description="What was sent, and the file takes.")
    method: str = Field(description="What was asked for, and once it is fitted what it is.")
    parameters: JsonObject | None = None
    num_samples: int | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    report: JsonObject | None = Field(None, description="An excerpt; `report_url` leads to the whole.")
    report_url: str | None = Field(None, description="Null for calibrators of earlier versions.")
    created_at: datetime


class ServedModel(BaseModel):
    """Which model answered."""

    id: str
    name: str
    version: int
    calibrated: bool


class NameRecord(BaseModel):
    """A published name and its versions."""

    name: str
    default_version: int
    versions: dict[str, str] = Field(description="Version → model id.")


T = TypeVar("T", bound=BaseModel)


class Page(BaseModel, Generic[T]):
    """One page of a list, newest first."""

    data: list[T]
    has_more: bool
