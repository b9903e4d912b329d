"""Records: the answers to calls that create, read and list what the service keeps."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from fedlas.contract.base import OPEN, Document, JsonObject, Shape
from fedlas.contract.events import Progress, Stage
from fedlas.contract.plan import Plan
from fedlas.contract.profiles import (
    AnswerTime,
    CalibratorInput,
    ClassPriors,
    DatasetRoles,
    DecisionThresholds,
    FeatureSpec,
    FittedOn,
    GuaranteesSummary,
    ImagePreprocessing,
    ModelPromise,
    Notice,
    OutputSpec,
    Purpose,
    Reading,
    SeenByModel,
    SplitCounts,
    SplitShares,
    Task,
    TensorSpec,
)
from fedlas.contract.requests import (
    Accelerator,
    Auto,
    BatchErrors,
    Budget,
    GateOptions,
    Hyperparameters,
    Method,
    PublishWhen,
    QueueLimit,
)
from fedlas.contract.scores import ScorePromise, ScoreVerdict

UploadStatus = Literal["inspecting", "ready", "rejected"]
JobStatus = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
BatchStatus = Literal["queued", "running", "succeeded", "failed"]
CalibratorStatus = Literal["running", "succeeded", "failed"]
DeliveryStatus = Literal["pending", "delivered", "failed", "disabled"]
Origin = Literal["uploaded", "calibrated"]
Verdict = Literal["trained", "post_hoc", "unchanged", "undetermined"]
Served = Literal["uploaded", "calibrated"]

#: Statuses after which a record never changes again (except by deletion).
FINAL: frozenset[str] = frozenset({"ready", "rejected", "succeeded", "failed", "cancelled"})

VERDICTS = (
    "`trained`: the network was tuned; `post_hoc`: a calibrator stands on top of it; `unchanged`: it is served as it "
    "came; `undetermined`: so it is, and nothing was judged."
)
SIGNIFICANT = "Whether test rows show the served model to be better than the uploaded one."
BEATS_SIMPLER = (
    "Whether it also beats every simpler model that was made, such as the upload with a temperature; null for those."
)
ServedKind = Annotated[Verdict, OPEN, Field(description=VERDICTS)]
InspectionStatus = Annotated[
    UploadStatus, OPEN, Field(description="`inspecting`, until a worker has found it `ready` or `rejected`.")
]
ClassNames = Annotated[list[str] | None, Field(description="The names of the classes, in the order of their indices.")]
NumClasses = Annotated[int | None, Field(description="The number of classes; null before inspection.")]
Adjustments = Annotated[list[Notice], Field(description="Changes that were made for you, each with its evidence.")]
Attempts = Annotated[int, Field(description="The number of times that a worker has begun the work.")]


class RecordError(Document):
    """The reason why an upload was rejected or a job failed."""

    code: str = Field(description="A stable code for machines.")
    message: str = Field(description="The finding and what is needed, as a sentence.")
    user_error: bool = Field(True, description="Whether the sender can mend it.")


class Record(Shape):
    """A record with an id of its own, and an error where it failed."""

    id: str = Field(description="The id, prefixed by its kind; ids sort by time.")
    status: str = Field(description="The status of the record.")
    error: RecordError | None = Field(
        None, description="The reason why the work failed, or the file was rejected; null otherwise."
    )
    waiting_for: str | None = Field(
        None,
        description="The obstacle to going on, such as that no worker takes it; null if it only waits.",
    )
    created_at: datetime = Field(description="The time at which the record was made.")


class UploadedRecord(Record):
    """The record of a file with classes."""

    name: str = Field(description="The name that was given, else that of the file.")
    bytes: int = Field(description="Size of the file in bytes.")
    sha256: str = Field(description="SHA-256 of the record's file.")
    num_classes: NumClasses = None
    class_names: ClassNames = None


class RunRecord(Record):
    """The record of a run over a model and a dataset."""

    model_id: str = Field(description="The id of the model, `mdl_…`.")
    dataset_id: str = Field(description="The id of the dataset, `ds_…`.")
    progress: Progress = Field(description="The progress of the work, from 0 to 1.")
    attempts: Attempts
    started_at: datetime | None = Field(None, description="The time at which a worker first began; null before.")
    finished_at: datetime | None = Field(None, description="The time of the end; null before.")


class DatasetRecord(UploadedRecord):
    """A dataset: rows with labels and splits, or rows that are only to be predicted."""

    format: str | None = Field(description="`npz`, `csv`, `parquet` or `imagefolder`; null before inspection.")
    status: InspectionStatus
    purpose: Annotated[Purpose, OPEN] | None = Field(
        None, description="`fit` or `predict`, as it was sent; null: the file tells."
    )
    num_samples: int | None = Field(None, description="The number of rows; null before inspection.")
    labelled: bool | None = Field(
        None, description="False: for predictions only, without classes and splits; null before inspection."
    )
    class_counts: dict[str, int] | None = Field(None, description="Class → the number of rows that have it.")
    inputs: list[TensorSpec] | None = Field(None, description="The inputs that its rows hold for a model.")
    roles: DatasetRoles | None = Field(None, description="The columns or arrays that play a role.")
    seen_by_model: Annotated[SeenByModel, OPEN] | None = Field(
        None, description="The rows that the uploaded model was trained on: `no`, `train_split` or `unknown`."
    )
    split_shares: SplitShares | None = Field(None, description="Shares as sent, where splits are drawn by them.")
    splits: SplitCounts | None = Field(None, description="The number of rows in each split.")
    columns: list[str] | None = Field(None, description="Columns of the single input that numeric columns form.")
    reading: Reading | None = Field(None, description="The treatment of missing numbers and of short rows.")
    warnings: list[str] = Field(default_factory=list, description="Findings that look wrong, in sentences.")
    adjustments: Adjustments = Field(default_factory=list)


class UploadRecord(Shape):
    """A file that arrives in pieces; its id takes the place of a body, once."""

    id: str = Field(description="The id, which takes the place of a body as `upload_id`.")
    bytes: int = Field(description="Size of the whole file in bytes.")
    offset: int = Field(description="Bytes that are stored safely; the next piece begins there.")
    created_at: datetime = Field(description="The time at which the upload was begun.")
    expires_at: datetime = Field(description="The time of its end, 24 hours after the last byte.")


class ModelRecord(UploadedRecord):
    """A classifier, uploaded or calibrated."""

    version: int = Field(
        description="Number among models that are called the same, from 1; not the version of a published name."
    )
    origin: Annotated[Origin, OPEN] = Field(description="`uploaded`, or `calibrated` by a job.")
    format: str | None = Field(description="`onnx`; null until inspection has looked at the content.")
    status: InspectionStatus
    inputs: list[TensorSpec] | None = Field(None, description="The inputs that a row is made of.")
    output: OutputSpec | None = Field(None, description="The output that classifies.")
    task: Annotated[Task, OPEN] | None = Field(None, description="`binary` or `multiclass`; null before inspection.")
    features: FeatureSpec | None = Field(None, description="The tensor of penultimate features.")
    trainable: bool | None = Field(None, description="False: only a calibrator can be fitted on top.")
    preprocessing: ImagePreprocessing | None = Field(None, description="The steps from image files to rows.")
    columns: list[str] | None = Field(None, description="Names of the columns of the single input, in order.")
    reading: Reading | None = Field(None, description="The treatment of missing numbers and of short rows.")
    warnings: list[str] = Field(
        default_factory=list, description="Parts that were passed over, or why it cannot be trained."
    )
    adjustments: Adjustments = Field(default_factory=list)
    calibrated: bool = Field(description="Whether a job has calibrated the model.")
    parent_id: str | None = Field(None, description="The uploaded model from which it was made.")
    job_id: str | None = Field(None, description="The job that has made it; null for an upload.")
    report_url: str | None = Field(None, description="The path of the job's report; null without one.")
    trained_on: list[FittedOn] = Field(default_factory=list, description="The rows that a calibrated model has seen.")
    promise: ScorePromise | ModelPromise | None = Field(
        None, description="The threshold at which at most 5 % of the answers are wrong, or that of a score."
    )
    guarantees: GuaranteesSummary | None = Field(
        None, description="The rows on which the promises of `max_error` and `coverage` rest."
    )
    class_priors: ClassPriors | None = Field(
        None, description="The class shares that it has learnt, and the priors of its answers."
    )
    decisions: DecisionThresholds | None = Field(
        None, description="Thresholds per class that keep how often each is answered."
    )
    cost_factor: float | None = Field(
        None, description="Time of an answer of one row, as a multiple of the uploaded network's."
    )
    answer_times: list[AnswerTime] = Field(default_factory=list, description="Times of one row and of 64.")


class StatusChange(Shape):
    """One line of the history of a job's statuses."""

    status: str = Field(description="The status that the job had from then on.")
    at: datetime = Field(description="The time at which it changed.")


class WebhookReceiver(Shape):
    """The receiver of a message about the job's end; its secret is not shown."""

    url: str = Field(description="The address to which messages are sent.")


class JobRecord(RunRecord):
    """One calibration, with the whole request and its outcome."""

    method: Annotated[Method, OPEN] = Field(
        description="The method of calibration; `auto` races those that suit the network."
    )
    status: Annotated[JobStatus, OPEN] = Field(
        description="`queued`, `running` or `cancelling`; `succeeded`, `failed` and `cancelled` are final."
    )
    stage: Stage | None = Field(None, description="The stage that the job has reached; null before it runs.")
    verdict: ServedKind | None = Field(None, description=VERDICTS)
    serves: Annotated[Served, OPEN] | None = Field(
        None, description="`calibrated`, or the `uploaded` model as it came; null until it is known."
    )
    significant: bool | None = Field(None, description=f"{SIGNIFICANT[:-1]}; null before the end.")
    beats_simpler: bool | None = Field(None, description=BEATS_SIMPLER)
    calibrated_model_id: str | None = Field(
        None,
        description="The model to serve, also where that is the uploaded one (see `serves`); null before the end.",
    )
    predict_url: str | None = Field(
        None, description="The path where this job's model answers, whatever its name answers with; null before."
    )
    report_url: str | None = Field(None, description="The path of the report; null before the end.")
    warnings: list[Notice] = Field(
        default_factory=list, description="Findings that look wrong, each with code and evidence, as soon as they are."
    )
    adjustments: Adjustments = Field(default_factory=list)
    hyperparameters: Hyperparameters = Field(
        default_factory=Hyperparameters, description="Hyperparameters as requested."
    )
    seed: int = Field(0, description="The seed of all random draws.")
    budget: Budget = Field(default_factory=Budget, description="Time and candidates that may be spent.")
    expected_accuracy: float | None = Field(None, description="Accuracy of the uploaded model, as its owner knows it.")
    gate: GateOptions = Field(default_factory=GateOptions, description="The rule that decides which model is served.")
    max_cost_factor: float | Auto = Field("auto", description="How many networks an answer may need.")
    accept_warnings: list[str] = Field(default_factory=list, description="Codes of warnings that do not end the job.")
    publish_as: str | None = Field(None, description="The name of which the served model becomes a version.")
    publish_when: Annotated[PublishWhen, OPEN] | None = Field(
        None, description="When a version that answers already is replaced."
    )
    cancel_after: QueueLimit | None = Field(None, description="The time that it may wait for a worker.")
    class_priors: dict[str, float] | None = Field(
        None, description="How often each class occurs where the model is used, by class name."
    )
    webhook: WebhookReceiver | None = Field(None, description="The receiver of a message about the job's end.")
    outputs: list[str] = Field(default_factory=list, description="More outputs of the calibrated file.")
    accelerator: Annotated[Accelerator, OPEN] = Field("auto", description="The workers that may take the job.")
    dry_run: bool = Field(False, description="Whether the job only plans.")
    plan: Plan | None = Field(None, description="The result of a dry run; null in other jobs.")
    history: list[StatusChange] = Field(description="All statuses so far, oldest first.")
    metadata: dict[str, str] = Field(description="The pairs that were sent with the job.")


class DeliveryAttempt(Shape):
    """One try to deliver a message."""

    at: datetime = Field(description="The time at which it was tried.")
    status_code: int | None = Field(None, description="The receiver's status code; null without an answer.")
    error: str | None = Field(None, description="The reason why there was no answer.")
    seconds: float = Field(description="Seconds that the try took.")


class DeliveryRecord(Shape):
    """A message to a job's webhook."""

    id: str = Field(description="The `webhook-id`, equal on every attempt.")
    job_id: str = Field(description="The job about whose end it tells.")
    type: str = Field(description="`job.succeeded`, `job.failed` or `job.cancelled`.")
    url: str = Field(description="The address to which it is sent.")
    status: Annotated[DeliveryStatus, OPEN] = Field(
        description="`pending`, `delivered`, `failed` after the last try, or `disabled`."
    )
    attempts: list[DeliveryAttempt] = Field(description="All tries so far, oldest first.")
    next_attempt_at: datetime | None = Field(None, description="The time of the next try, while it is pending.")
    created_at: datetime = Field(description="The time at which the job ended.")
    delivered_at: datetime | None = Field(None, description="The time at which the receiver took it.")


class BatchRecord(RunRecord):
    """Predictions over a stored dataset."""

    status: Annotated[BatchStatus, OPEN] = Field(
        description="`queued` or `running`; `succeeded` and `failed` are final."
    )
    errors: Annotated[BatchErrors, OPEN] = Field("fail", description="The treatment of rows without an answer.")
    num_rows: int | None = Field(None, description="Rows that were answered; null before the end.")
    num_errors: int | None = Field(None, description="With `errors: column`: rows without an answer.")
    class_priors: dict[str, float] | None = Field(
        None, description="Priors of the request, or else of the name that it gave."
    )
    results_url: str | None = Field(None, description="The path of the answers; null before the end.")
    manifest_url: str | None = Field(None, description="The path of the list of result files, to read in parallel.")


class CalibratorRecord(UploadedRecord):
    """A calibrator fitted on scores, without their model."""

    status: Annotated[CalibratorStatus, OPEN] = Field(description="`running`; `succeeded` and `failed` are final.")
    input: Annotated[CalibratorInput, OPEN] | None = Field(
        None,
        description="The scores that the file takes: `logits`, `probabilities`, one `score` or `signals`.",
    )
    method: str = Field(description="The requested method, and once it is fitted the one that was chosen.")
    parameters: JsonObject | None = Field(None, description="The fitted parameters by name.")
    promise: ScorePromise | None = Field(None, description="The threshold of one score or several signals.")
    verdict: Annotated[ScoreVerdict, OPEN] | None = Field(
        None, description="The comparison of the probabilities with their reference; of one score or several signals."
    )
    needed_labels: int | None = Field(None, description="About how many more labels would settle the verdict.")
    valid_for: str | None = Field(None, description="The version of score, judge or prompt that it holds for.")
    publish_as: str | None = Field(None, description="The name that was to answer with it.")
    version: int | None = Field(
        None, description="The version of that name that it is; null where the name answers as before."
    )
    not_published: str | None = Field(None, description="The reason why the name answers as before.")
    model_id: str | None = Field(None, description="The model that answers by it; null for logits and probabilities.")
    predict_url: str | None = Field(
        None, description="The path that answers scores; null for logits and probabilities."
    )
    split_shares: SplitShares | None = Field(None, description="Shares as sent, where splits are drawn by them.")
    num_samples: int | None = Field(None, description="The number of rows that were sent.")
    warnings: list[Notice] = Field(default_factory=list, description="Findings that look wrong with scores or labels.")
    report: JsonObject | None = Field(None, description="An excerpt of the report; `report_url` leads to the whole.")
    report_url: str | None = Field(None, description="The path of the report; null before the end.")


class NameRecord(Shape):
    """A published name and its versions."""

    name: str = Field(description="The published name, which takes the place of a model's id.")
    default_version: int = Field(description="The version that answers under the name.")
    versions: dict[str, str] = Field(description="Version → the id of its model.")
    class_priors: dict[str, float] | None = Field(
        None, description="The priors that the default version answers for under this name."
    )
