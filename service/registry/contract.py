"""The contract between clients, service and worker: the shapes of requests and records; it knows no storage."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from service.registry.documents import (
    DatasetRoles,
    EventData,
    FeatureSpec,
    GuaranteesSummary,
    ImagePreprocessing,
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
from service.registry.text import objection_within
from service.registry.webhooks import parse_secret, parse_url

Method = Literal[
    "auto",
    "fedlas",
    "fedlas_plus",
    "label_smoothing",
    "mbls",
    "acls",
    "focal",
    "cross_entropy",
    "post_hoc",
    "temperature",
]
UploadStatus = Literal["inspecting", "ready", "rejected"]
JobStatus = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
BatchStatus = Literal["queued", "running", "succeeded", "failed"]
CalibratorStatus = Literal["running", "succeeded", "failed"]
DeliveryStatus = Literal["pending", "delivered", "failed", "disabled"]

#: Statuses after which a record never changes again (except by deletion).
FINAL: frozenset[str] = frozenset({"ready", "rejected", "succeeded", "failed", "cancelled"})
#: What a worker is told to do, by the prefix of the record's id.
WORK_KINDS = {
    "ds": "inspect",
    "mdl": "inspect",
    "cal": "inspect",
    "job": "calibrate",
    "bat": "predict",
    "msg": "deliver",
}
#: The kind of work that a dry run is: queued like any job, but it needs no place among those that train.
PLAN = "plan"
#: Where work that trains waits: for any worker, or for one with a GPU. All other work waits in the queue of its kind.
ANY_DEVICE, GPU_ONLY = "calibrate.cpu", "calibrate.gpu"
QUEUES = ("inspect", ANY_DEVICE, GPU_ONLY, "predict", "deliver")
#: The name of the one message there is; its only argument is a record's id, and it is no more than a hint.
RING = "fedlas.ring"

Auto = Literal["auto"]
AlphaValue = Annotated[float, Field(gt=0, le=0.5)]
PositiveValue = Annotated[float, Field(gt=0, le=1000)]

Value = TypeVar("Value")


def _keepable(value: Value) -> Value:
    if found := objection_within(value):
        raise ValueError(f"it {found}, and such text cannot be kept")
    return value


#: Text of a request outside a `Strict` body, a query parameter for example: 422 where it could not be kept.
Text = Annotated[str, AfterValidator(_keepable)]
#: The id of a record, or a published name, within a request; ids have 40 characters at most, names 100.
Reference = Annotated[str, Field(max_length=200)]
MetadataName = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class Strict(BaseModel):
    """A request body: an unknown field is an error, not a silent no-op, and `true` or `"3"` is no number.

    Text in it, wherever it stands, is text that can be kept: no NUL, no half of a surrogate pair.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @field_validator("*")
    @classmethod
    def _text_is_keepable(cls, value: Value) -> Value:
        return _keepable(value)


class Hyperparameters(Strict):
    """Of the fine-tune; `auto` leaves a value to the race."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=2, le=65536)] | Auto = "auto"
    alpha: AlphaValue | Auto = Field("auto", description="Mean smoothing; at most 0.5.")
    beta: PositiveValue | Auto = "auto"
    margin: PositiveValue | Auto = "auto"
    momentum: Annotated[float, Field(gt=0, le=1)] | Auto = Field(
        "auto", description="Weight of the newest batch in the running feature statistics."
    )
    scope: Literal["auto", "all", "head"] = "auto"


class Budget(Strict):
    """What a job may spend; the uploaded model with a temperature always finishes."""

    minutes: float = Field(30, gt=0, le=10_000)
    candidates: int = Field(16, ge=1, le=1000)


class GateOptions(Strict):
    """How the finalists are judged on the test rows."""

    score: Literal["brier", "nll"] = "brier"
    confidence_level: float = Field(0.95, gt=0.5, lt=1)
    max_accuracy_drop: float = Field(0.005, ge=0, le=1)


class Webhook(Strict):
    """Where to tell of the job's end."""

    url: str = Field(max_length=2000)
    secret: str = Field(max_length=200, repr=False)

    @field_validator("url")
    @classmethod
    def _url_is_plain(cls, value: str) -> str:
        parse_url(value)  # where it may lead is the operator's policy, and checked on the address connected to
        return value

    @field_validator("secret")
    @classmethod
    def _secret_is_a_key(cls, value: str) -> str:
        parse_secret(value)
        return value


class JobOptions(Strict):
    """Everything of a job but its model and dataset."""

    method: Method = "auto"
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)
    seed: int = Field(0, ge=0, lt=2**63)
    budget: Budget = Field(default_factory=Budget)
    expected_accuracy: float | None = Field(None, ge=0, le=1)
    gate: GateOptions = Field(default_factory=GateOptions)
    max_cost_factor: float = Field(
        1.5, ge=1, le=10, description="How much dearer than the uploaded model an answer of the served one may be."
    )
    publish_as: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    publish_when: Literal["promoted", "always"] = "promoted"
    webhook: Webhook | None = None
    accelerator: Literal["auto", "gpu"] = Field(
        "auto", description="`gpu`: waits for a worker with a GPU; `auto`: whoever is free first, on the best it has."
    )
    metadata: dict[MetadataName, MetadataValue] = Field(
        default_factory=dict,
        max_length=50,
        description="Words of your own: 50 at most, names of 64 and values of 512 characters.",
    )
    dry_run: bool = Field(False, description="Check everything and estimate; train and publish nothing.")

    @model_validator(mode="after")
    def _name_is_no_id(self) -> JobOptions:
        if self.publish_as and self.publish_as.startswith("mdl_"):
            raise ValueError("publish_as must not look like a model id (mdl_…)")
        return self


class JobRequest(JobOptions):
    """`POST /v1/jobs`."""

    model_id: Reference
    dataset_id: Reference


class AnswerOptions(Strict):
    """What a prediction carries beside the label."""

    model_config = ConfigDict(frozen=True)

    top_k: int | None = Field(None, ge=1, le=1000)
    abstain_below: float | None = Field(None, ge=0, le=1)
    max_error: float | dict[str, float] | None = Field(
        None,
        description="Abstain so that at most this share of the answers is wrong; or such a share of each true class's "
        'answers: `{"class": share}` for every class, or by class name.',
    )
    coverage: float | dict[str, float] | None = Field(
        None,
        description="Answer `prediction_set`, which holds the true class with this probability; or with such a "
        'probability for the rows of each true class: `{"class": c}` for every class, or by class name.',
    )
    decision: dict[str, JsonValue] | None = Field(
        None,
        description='`{"threshold": t}` on the positive class, or `{"costs": [[…]]}`: rows decide, columns are true.',
    )


class BatchRequest(AnswerOptions):
    """`POST /v1/predictions`."""

    model: Reference = Field(description="A model id or a published name.")
    dataset_id: Reference


class UploadRequest(Strict):
    """`POST /v1/uploads`."""

    bytes: int = Field(gt=0, description="How large the whole file is.")


class DefaultVersion(Strict):
    """`PUT /v1/names/{name}`."""

    default_version: int = Field(ge=1)


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
        description="`attempt`: a process or worker was lost or handed the job back, and it goes on."
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
    parameters: dict[str, Any] | None = None
    num_samples: int | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    report: dict[str, Any] | None = Field(None, description="An excerpt; `report_url` leads to the whole.")
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
