"""Records of what a worker carries out: jobs with their plans and messages, and batches."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from fedlas.client.records.events import Stage
from fedlas.client.records.parts import Document, FeatureSpec, Notice, Progress, Record, SplitCounts


class PlannedClass(Document):
    """A class of the model, and the rows of the dataset that have it."""

    name: str
    index: int
    rows: int


class PlannedLabels(Document):
    """The mapping of the dataset's labels to the model's classes."""

    classes: list[PlannedClass]
    matched_by: Literal["name", "index"] | str


class Leakage(Document):
    """Rows of the judging splits that occur elsewhere too."""

    seen_by_model: Literal["no", "train_split", "unknown"] | str
    shared_rows: dict[str, dict[str, int]]
    """Split → other split → rows with the same inputs."""


class UploadedScores(Document):
    """The uploaded model on one split."""

    confidence: float | None = None
    accuracy: float | None = None
    brier: float | None = None
    nll: float | None = None
    split: str


class PlanEstimate(Document):
    """The estimated cost of the job, measured on a few steps."""

    budget_minutes: float
    candidates: int
    device: str
    memory_bytes: int
    minutes: float
    """Within the budget."""
    minutes_in_full: float
    """Where every candidate is trained to the end."""


class DetectableEffect(Document):
    """The smallest gain that the test rows would show."""

    gain: float | None = None
    power: float
    score: str
    temperature_would_gain: float | None = None
    """On the calibration rows."""
    test_rows: int


class Plan(Document):
    """The plan of a job: what its order would do."""

    detectable_effect: DetectableEffect | None = None
    estimate: PlanEstimate
    features: FeatureSpec
    labels: PlannedLabels
    leakage: Leakage
    splits: SplitCounts
    trainable: bool
    trains: bool
    """Whether anything would be trained, rather than only calibrated."""
    uploaded: UploadedScores
    warnings: list[Notice]
    adjustments: list[Notice] = Field(default_factory=list)
    calibrated_on: dict[str, int] | None = None
    """Split → rows of it that would calibrate; train rows that were drawn and would be idle do."""
    fails_with: str | None = None
    """The code of a warning with which the job would fail."""


Method = (
    Literal[
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
    | str
)


class StatusChange(Document):
    """One line of a job's history."""

    status: str
    at: datetime


class WebhookReceiver(Document):
    """The receiver of a message about the job's end; its secret is not shown."""

    url: str


class Budget(Document):
    """The budget of a job; the uploaded model with a temperature always finishes."""

    candidates: int = 16
    minutes: float = 30


class GateOptions(Document):
    """Options of the gate, which compares the finalists on the test rows."""

    confidence_level: float = 0.95
    max_accuracy_drop: float = 0.005
    max_recall_drop: float | None = None
    """How much recall at the most probable class any class may lose; null: recall is not guarded."""
    score: Literal["brier", "nll"] | str = "brier"


class Hyperparameters(Document):
    """Hyperparameters of the fine-tune; `auto` leaves a value to the race."""

    alpha: float | str = "auto"
    """Mean smoothing; at most 0.5."""
    batch_size: int | str = "auto"
    beta: float | str = "auto"
    epochs: int | str = "auto"
    learning_rate: float | str = "auto"
    margin: float | str = "auto"
    momentum: float | str = "auto"
    """Weight of the newest batch in the running feature statistics."""
    optimizer: Literal["auto", "sgd", "adamw"] | str = "auto"
    """`auto`: AdamW for transformers, SGD with momentum for all others."""
    scope: Literal["auto", "all", "head"] | str = "auto"
    weight_decay: float | str = "auto"
    """Weight decay of the network, per step."""


class RunRecord(Record):
    """A run over a model and a dataset."""

    model_id: str
    dataset_id: str
    progress: Progress
    attempts: int
    started_at: datetime | None = None
    finished_at: datetime | None = None


class JobRecord(RunRecord):
    """One calibration."""

    status: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"] | str
    promoted: bool
    """Whether something else than the uploaded model is to be served."""
    history: list[StatusChange]
    metadata: dict[str, str]
    method: Method
    stage: Stage | None = None
    verdict: Literal["trained", "post_hoc", "unchanged", "undetermined"] | str | None = None
    shown: bool | None = None
    """Whether test rows show what is to be served to be better; null before the end."""
    calibrated_model_id: str | None = None
    accelerator: Literal["auto", "gpu"] | str = "auto"
    accept_warnings: list[str] = Field(default_factory=list)
    adjustments: list[Notice] = Field(default_factory=list)
    """Changes made for you."""
    budget: Budget = Field(default_factory=Budget)
    class_priors: dict[str, float] | None = None
    dry_run: bool = False
    expected_accuracy: float | None = None
    gate: GateOptions = Field(default_factory=GateOptions)
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)
    """Values as requested, like all below."""
    max_cost_factor: float | str = "auto"
    plan: Plan | None = None
    """Result of a dry run."""
    predict_url: str | None = None
    """Where the model that this job serves answers, whatever its name answers with; null before."""
    publish_as: str | None = None
    publish_when: Literal["promoted", "shown", "always"] | str | None = None
    report_url: str | None = None
    seed: int = 0
    warnings: list[Notice] = Field(default_factory=list)
    """Findings, each as soon as it is there."""
    webhook: WebhookReceiver | None = None


class BatchRecord(RunRecord):
    """Predictions over a stored dataset."""

    status: Literal["queued", "running", "succeeded", "failed"] | str
    class_priors: dict[str, float] | None = None
    """Priors of the request, or else of the name it gave."""
    errors: Literal["fail", "column"] | str = "fail"
    """Value as requested."""
    manifest_url: str | None = None
    """Which files they are, to read them in parallel."""
    num_errors: int | None = None
    """With `errors: column`: rows without an answer."""
    num_rows: int | None = None
    results_url: str | None = None


class ResultPart(Document):
    """A part of the results: a Parquet file of neighbouring rows of the dataset."""

    number: int
    """Number of the part, from 0; `/results/parts/{number}` is its file."""
    first_row: int
    """First row in the dataset, counted from 0."""
    num_rows: int
    bytes: int
    sha256: str
    """Digest of the file."""


class BatchManifest(Document):
    """All parts of a batch's results; their rows are those of the dataset, in its order, once each."""

    batch_id: str
    num_rows: int
    parts: list[ResultPart]
    dataset_sha256: str | None = None
    """Digest of the dataset's file."""
    format_version: Literal[1] | int = 1
    model_sha256: str | None = None
    """Digest of the model's file, as in its record; null where results are one file and it is deleted."""
    num_errors: int | None = None
    """With `errors: column`: rows without an answer."""


class DeliveryAttempt(Document):
    """One try to deliver a message."""

    at: datetime
    seconds: float
    error: str | None = None
    status_code: int | None = None


class Delivery(Document):
    """A message to a job's webhook; its id is the `webhook-id`, the same on every attempt."""

    id: str
    status: Literal["pending", "delivered", "failed", "disabled"] | str
    type: str
    attempts: list[DeliveryAttempt]
    created_at: datetime
    job_id: str
    url: str
    delivered_at: datetime | None = None
    next_attempt_at: datetime | None = None
    """While it is pending."""
