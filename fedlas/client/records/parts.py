"""Parts of records: their base, what models, datasets and jobs have in common, lists, and figures of reports."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Document(BaseModel):
    """A typed part of an answer; unknown fields are kept, so that a newer server works."""

    # Schemas are built on first use: a program that imports the client uses few of them.
    model_config = ConfigDict(extra="allow", populate_by_name=True, defer_build=True)

    @property
    def raw(self) -> dict[str, Any]:
        """The JSON that this came from."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class RecordError(Document):
    """The reason why an upload was rejected or a job failed."""

    code: str
    message: str
    user_error: bool = True
    """Whether the sender can mend it."""


class Record(Document):
    """A record with an id of its own, and an error where it failed."""

    id: str
    status: str
    created_at: datetime
    error: RecordError | None = None
    waiting_for: str | None = None
    """Obstacle that keeps it from going on; null where it only waits for its turn."""


class Notice(Document):
    """Something that was found or done, with what it rests on."""

    code: str
    """Stable, for machines."""
    message: str
    evidence: dict[str, JsonValue] = Field(default_factory=dict)
    """The figures and names behind the message."""
    severity: Literal["info", "warning", "error"] | str = "warning"
    """`info`: it was done for you; `warning`: it looks wrong; `error`: it is certainly wrong, and the job fails
    with this code unless `accept_warnings` names it."""


class TensorSpec(Document):
    """One input of a model or dataset; the first dimension is the batch, `N`."""

    name: str
    dtype: str
    shape: list[int | str]


class OutputSpec(Document):
    """The output that classifies."""

    name: str
    kind: Literal["logits", "probabilities"] | str


class FeatureSpec(Document):
    """The tensor of penultimate features in the graph."""

    dim: int
    layer: str


class FittedOn(Document):
    """The rows of one dataset that a calibrated model has seen."""

    dataset_id: str
    network: list[str]
    """Splits among them that trained the network itself."""
    sha256: str
    """Digest of the uploaded file."""
    splits: list[str]
    """All that anything in the model was fitted on."""


class GuaranteesSummary(Document):
    """The summary of a model's guarantees in its record; the tables grow with the classes."""

    delta: float | None = None
    """The probability with which a promise may fail."""
    num_groups: int | None = None
    """Number of independent groups, if rows had groups."""
    num_rows: int | None = None
    """How many guarantee rows there were."""


class ClassPriors(Document):
    """Class priors by name, of which answers are for the default ones; without others these are the shares."""

    default: dict[str, float]
    """Priors of answers that request no others."""
    shares: dict[str, float]
    """Class shares of the calibration rows."""


class DecisionThresholds(Document):
    """Thresholds by class name: the largest of probability / threshold decides as often as the uploaded model
    does."""

    thresholds: dict[str, float]
    """For probabilities at the default class priors."""
    keep: str = "alarm_rate"


class ImagePreprocessing(Document):
    """From the bytes of an image file to one row of a model's input; a field without a value is left out."""

    bit_depth: int = 8
    channels: int = 3
    crop: list[Any] | None = None
    """The middle `[height, width]`."""
    dtype: Literal["float32", "uint8"] | str = "float32"
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos", "box"] | str = "bilinear"
    layout: Literal["NCHW", "NHWC"] | str = "NCHW"
    mean: list[float] | None = None
    """Subtracted, per channel."""
    order: Literal["RGB", "BGR"] | str = "RGB"
    resize: int | list[Any] | None = None
    """Length of the shorter side, or `[height, width]`."""
    scale: float | None = None
    """Multiplies the pixels; without it they are divided by their largest value."""
    std: list[float] | None = None
    """Divides what is left, per channel."""


class Reading(Document):
    """Reading of missing numbers and short rows."""

    missing: Literal["reject", "nan"] | str = "reject"
    padding: dict[str, int | float] | None = None
    """Input → the number that fills its shorter rows."""


class DatasetRoles(Document):
    """Which column or array plays which role; a role without a column is left out."""

    id: str | None = None
    label: str | None = None
    group: str | None = None
    slices: list[str] | None = None
    split: str | None = None
    time: str | None = None
    weight: str | None = None


class SplitCounts(Document):
    """Rows in each split, fixed once."""

    calibration: int = 0
    guarantee: int = 0
    test: int = 0
    train: int = 0


class SplitShares(Document):
    """Shares of the rows that drawn splits get; they sum to one, and a split that is not named gets none."""

    calibration: float
    test: float
    guarantee: float = 0
    train: float = 0


class Progress(Document):
    """The progress of a job; `eta_seconds` is an estimate from what has been done, or null."""

    candidate: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    eta_seconds: float | None = None
    fraction: float = 0.0


class Estimate(Document):
    """A figure and its interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


Section = TypeVar("Section", bound=Document)


class ByModel(Document, Generic[Section]):
    """One section for the uploaded model, for it with a temperature, and for the model that is served."""

    uploaded: Section
    temperature: Section
    calibrated: Section


class BinnedEstimate(Estimate):
    """A binned error beside the range it takes for a calibrated model with the same probabilities.

    Of a difference between two models it is an interval like any other.
    """

    floor_low: float | None = None
    floor_high: float | None = None


class Estimates(Document):
    """The metrics of one model, or of the difference between two."""

    accuracy: Estimate
    adaptive_ece: BinnedEstimate
    augrc: Estimate
    aurc: Estimate
    brier: Estimate
    calibration_error_l2: Estimate
    classwise_ece: BinnedEstimate
    ece: BinnedEstimate
    nll: Estimate


class Differences(Document):
    """Metrics of the served model minus those of another, paired by row."""

    calibrated_minus_temperature: Estimates
    calibrated_minus_uploaded: Estimates


Item = TypeVar("Item")


class Page(Document, Generic[Item]):
    """Some records of a list, newest first."""

    data: list[Item]
    has_more: bool


class Server(Document):
    """Metadata of the server."""

    name: str
    version: str
    extensions: list[str] = Field(default_factory=list)
