"""Records: what a call answers, as clients see it, and one record for each type of event."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, RootModel

from service.registry.contract.requests import (
    Auto,
    BatchErrors,
    Budget,
    GateOptions,
    Hyperparameters,
    Method,
    PublishWhen,
)
from service.registry.documents import (
    CandidateEnded,
    ClassPriors,
    DatasetRoles,
    DecisionThresholds,
    EpochEnded,
    FeatureSpec,
    FittedOn,
    FoldScored,
    GuaranteesSummary,
    ImagePreprocessing,
    JsonObject,
    Notice,
    OutputSpec,
    Plan,
    Progress,
    Publication,
    Purpose,
    Reading,
    SeenByModel,
    SplitCounts,
    SplitShares,
    Stage,
    StageChanged,
    Task,
    TensorSpec,
    TrainingBegun,
    Verdict,
)
from service.registry.documents.runs import AttemptEnded, StatusChanged

UploadStatus = Literal["inspecting", "ready", "rejected"]
JobStatus = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]

#: Statuses after which a record never changes again (except by deletion).
FINAL: frozenset[str] = frozenset({"ready", "rejected", "succeeded", "failed", "cancelled"})


class RecordError(BaseModel):
    """The reason why an upload was rejected or a job failed."""

    code: str
    message: str
    user_error: bool = Field(True, description="Whether the sender can mend it.")


class Record(BaseModel):
    """A record with an id of its own, and an error where it failed."""

    id: str
    error: RecordError | None = None
    waiting_for: str | None = Field(
        None,
        description="What keeps it from going on, in a sentence: no worker takes it, or its worker has gone silent; "
        "null where it only waits for its turn.",
    )
    created_at: datetime


class UploadedRecord(Record):
    """Record of a file with classes."""

    name: str
    bytes: int
    sha256: str
    num_classes: int | None = None
    class_names: list[str] | None = None


class RunRecord(Record):
    """A run over a model and a dataset."""

    model_id: str
    dataset_id: str
    progress: Progress
    attempts: int
    started_at: datetime | None = None
    finished_at: datetime | None = None


class DatasetRecord(UploadedRecord):
    """A dataset: rows with labels and splits, or rows that are only to be predicted."""

    format: str | None
    status: UploadStatus
    purpose: Purpose | None = Field(None, description="As it was sent.")
    num_samples: int | None = None
    labelled: bool | None = Field(
        None, description="False: for predictions only, without classes and splits; null before inspection."
    )
    class_counts: dict[str, int] | None = None
    inputs: list[TensorSpec] | None = None
    roles: DatasetRoles | None = None
    seen_by_model: SeenByModel | None = None
    split_shares: SplitShares | None = Field(None, description="As they were sent, where splits are drawn by them.")
    splits: SplitCounts | None = None
    columns: list[str] | None = Field(None, description="Of the single input that numeric columns form, in order.")
    reading: Reading | None = None
    warnings: list[str] = Field(default_factory=list)
    adjustments: list[Notice] = Field(default_factory=list, description="What was done for you.")


class UploadRecord(BaseModel):
    """A file that arrives in pieces; its id takes the place of a body, once."""

    id: str
    bytes: int = Field(description="How large the whole file is.")
    offset: int = Field(description="How much of it is here, safely; the next piece begins there.")
    created_at: datetime
    expires_at: datetime = Field(description="24 hours after the last byte.")


class ModelRecord(UploadedRecord):
    """A classifier, uploaded or calibrated."""

    version: int
    origin: Literal["uploaded", "calibrated"]
    format: str | None = Field(description="Null until inspection has looked at the content.")
    status: UploadStatus
    inputs: list[TensorSpec] | None = None
    output: OutputSpec | None = None
    task: Task | None = None
    features: FeatureSpec | None = None
    trainable: bool | None = Field(None, description="False: only a calibrator can be fitted on top.")
    preprocessing: ImagePreprocessing | None = None
    columns: list[str] | None = Field(None, description="Names of the columns of the single input, in order.")
    reading: Reading | None = None
    warnings: list[str] = Field(default_factory=list, description="What was passed over, or why it cannot be trained.")
    adjustments: list[Notice] = Field(default_factory=list, description="What was done for you.")
    calibrated: bool
    parent_id: str | None = None
    job_id: str | None = None
    report_url: str | None = None
    trained_on: list[FittedOn] = Field(default_factory=list, description="What a calibrated model has seen.")
    guarantees: GuaranteesSummary | None = Field(None, description="What `max_error` and `coverage` can promise.")
    class_priors: ClassPriors | None = None
    decisions: DecisionThresholds | None = None
    cost_factor: float | None = Field(None, description="Cost of an answer, as a multiple of the uploaded model's.")


class StatusChange(BaseModel):
    """One line of a job's history."""

    status: str
    at: datetime


class WebhookReceiver(BaseModel):
    """The receiver of a message about the job's end; its secret is not shown."""

    url: str


class JobRecord(RunRecord):
    """One calibration."""

    method: Method
    status: JobStatus
    stage: Stage | None = None
    verdict: Verdict | None = None
    promoted: bool = Field(description="Whether something else than the uploaded model is to be served.")
    shown: bool | None = Field(
        None, description="Whether test rows show what is to be served to be better; null before the end."
    )
    calibrated_model_id: str | None = None
    predict_url: str | None = Field(
        None, description="Where the model that this job serves answers, whatever its name answers with; null before."
    )
    report_url: str | None = None
    warnings: list[Notice] = Field(default_factory=list, description="What was found, as soon as it is.")
    adjustments: list[Notice] = Field(default_factory=list, description="What was done for you.")
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters, description="As ordered, like all below.")
    seed: int = 0
    budget: Budget = Field(default_factory=Budget)
    expected_accuracy: float | None = None
    gate: GateOptions = Field(default_factory=GateOptions)
    max_cost_factor: float | Auto = "auto"
    accept_warnings: list[str] = Field(default_factory=list)
    publish_as: str | None = None
    publish_when: PublishWhen | None = None
    class_priors: dict[str, float] | None = None
    webhook: WebhookReceiver | None = None
    accelerator: Literal["auto", "gpu"] = "auto"
    dry_run: bool = False
    plan: Plan | None = Field(None, description="What a dry run found.")
    history: list[StatusChange]
    metadata: dict[str, str]


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
    status: Literal["pending", "delivered", "failed", "disabled"]
    attempts: list[DeliveryAttempt]
    next_attempt_at: datetime | None = Field(None, description="While it is pending.")
    created_at: datetime
    delivered_at: datetime | None = None


class BatchRecord(RunRecord):
    """Predictions over a stored dataset."""

    status: Literal["queued", "running", "succeeded", "failed"]
    errors: BatchErrors = Field("fail", description="As it was ordered.")
    num_rows: int | None = None
    num_errors: int | None = Field(None, description="With `errors: column`: rows without an answer.")
    class_priors: dict[str, float] | None = Field(None, description="Of the request, or else of the name it gave.")
    results_url: str | None = None
    manifest_url: str | None = Field(None, description="Which files they are, to read them in parallel.")


class CalibratorRecord(UploadedRecord):
    """A calibrator fitted on scores, without their model."""

    status: Literal["running", "succeeded", "failed"]
    input: Literal["logits", "probabilities"] | None = Field(None, description="What was sent, and the file takes.")
    method: str = Field(description="What was asked for, and once it is fitted what it is.")
    parameters: JsonObject | None = None
    split_shares: SplitShares | None = Field(None, description="As they were sent, where splits are drawn by them.")
    num_samples: int | None = None
    report: JsonObject | None = Field(None, description="An excerpt; `report_url` leads to the whole.")
    report_url: str | None = None


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
    class_priors: dict[str, float] | None = Field(None, description="Those that the default version answers for here.")


T = TypeVar("T", bound=BaseModel)


class Page(BaseModel, Generic[T]):
    """One page of a list, newest first."""

    data: list[T]
    has_more: bool


class _Event(BaseModel):
    """One line of what happened to a job."""

    id: int = Field(description="Grows by one within the job.")
    at: datetime = Field(description="When it happened.")


class StatusEvent(_Event):
    """The job has another status."""

    type: Literal["status"] = Field(description="Of this event.")
    data: StatusChanged = Field(description="The status.")


class StageEvent(_Event):
    """The job has come to another stage."""

    type: Literal["stage"] = Field(description="Of this event.")
    data: StageChanged = Field(description="The stage.")


class ProgressEvent(_Event):
    """The job has come further."""

    type: Literal["progress"] = Field(description="Of this event.")
    data: Progress = Field(description="How far it is.")


class WarningEvent(_Event):
    """Something looks wrong with model or dataset."""

    type: Literal["warning"] = Field(description="Of this event.")
    data: Notice = Field(description="What was found.")


class TrainingEvent(_Event):
    """A candidate of the race begins to train: without one fold of the calibration rows, or on all rows."""

    type: Literal["training"] = Field(description="Of this event.")
    data: TrainingBegun = Field(description="The training.")


class EpochEvent(_Event):
    """An epoch of a training is over."""

    type: Literal["epoch"] = Field(description="Of this event.")
    data: EpochEnded = Field(description="The epoch.")


class ScoreEvent(_Event):
    """A training without a fold of the calibration rows is over, and that fold has scored it."""

    type: Literal["score"] = Field(description="Of this event.")
    data: FoldScored = Field(description="The score.")


class CandidateEvent(_Event):
    """A candidate of the race has ended."""

    type: Literal["candidate"] = Field(description="Of this event.")
    data: CandidateEnded = Field(description="The candidate.")


class AttemptEvent(_Event):
    """A process or worker was lost or handed the job back, and the job continues."""

    type: Literal["attempt"] = Field(description="Of this event.")
    data: AttemptEnded = Field(description="Why.")


class PublicationEvent(_Event):
    """The model is a version of `publish_as` now, or the reason why it is none."""

    type: Literal["publication"] = Field(description="Of this event.")
    data: Publication = Field(description="The version, or the reason.")


Event = (
    StatusEvent
    | StageEvent
    | ProgressEvent
    | WarningEvent
    | TrainingEvent
    | EpochEvent
    | ScoreEvent
    | CandidateEvent
    | AttemptEvent
    | PublicationEvent
)


class EventRecord(RootModel[Annotated[Event, Field(discriminator="type")]]):
    """One line of what happened to a job; its `type` says what its `data` is."""
