"""Records of what came as a file, the names of models, and answers to rows."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from fedlas.client.records import parts
from fedlas.client.records.parts import Document, Notice, Record


class UploadedRecord(Record):
    """Record of a file with classes."""

    name: str
    bytes: int
    sha256: str
    num_classes: int | None = None
    class_names: list[str] | None = None


class Model(UploadedRecord):
    """A classifier, uploaded or calibrated."""

    version: int
    status: Literal["inspecting", "ready", "rejected"] | str
    calibrated: bool
    format: str | None = None
    """Null until inspection has looked at the content."""
    origin: Literal["uploaded", "calibrated"] | str
    adjustments: list[Notice] = Field(default_factory=list)
    """Changes made for you."""
    class_priors: parts.ClassPriors | None = None
    columns: list[str] | None = None
    """Names of the columns of the single input, in order."""
    cost_factor: float | None = None
    """Cost of an answer, as a multiple of the uploaded model's."""
    decisions: parts.DecisionThresholds | None = None
    features: parts.FeatureSpec | None = None
    guarantees: parts.GuaranteesSummary | None = None
    """Guarantees of `max_error` and `coverage`."""
    inputs: list[parts.TensorSpec] | None = None
    job_id: str | None = None
    output: parts.OutputSpec | None = None
    parent_id: str | None = None
    preprocessing: parts.ImagePreprocessing | None = None
    reading: parts.Reading | None = None
    report_url: str | None = None
    task: Literal["binary", "multiclass"] | str | None = None
    trainable: bool | None = None
    """False: only a calibrator can be fitted on top."""
    trained_on: list[parts.FittedOn] = Field(default_factory=list)
    """Rows that a calibrated model has seen."""
    warnings: list[str] = Field(default_factory=list)
    """Parts passed over, or why it cannot be trained."""


class Dataset(UploadedRecord):
    """A dataset: rows with labels and splits, or rows that are only to be predicted."""

    status: Literal["inspecting", "ready", "rejected"] | str
    format: str | None = None
    adjustments: list[Notice] = Field(default_factory=list)
    """Changes made for you."""
    class_counts: dict[str, int] | None = None
    columns: list[str] | None = None
    """Columns of the single input that numeric columns form, in order."""
    inputs: list[parts.TensorSpec] | None = None
    labelled: bool | None = None
    """False: for predictions only, without classes and splits; null before inspection."""
    num_samples: int | None = None
    purpose: Literal["fit", "predict"] | str | None = None
    """Purpose as sent."""
    reading: parts.Reading | None = None
    roles: parts.DatasetRoles | None = None
    seen_by_model: Literal["no", "train_split", "unknown"] | str | None = None
    split_shares: parts.SplitShares | None = None
    """Shares as sent, where splits are drawn by them."""
    splits: parts.SplitCounts | None = None
    warnings: list[str] = Field(default_factory=list)


class Calibrator(UploadedRecord):
    """A calibrator fitted on scores, without their model."""

    status: Literal["running", "succeeded", "failed"] | str
    method: str
    """Requested method, and once it is fitted the one that it is."""
    input: Literal["logits", "probabilities"] | str | None = None
    """Scores that were sent, and that the file takes."""
    num_samples: int | None = None
    parameters: dict[str, JsonValue] | None = None
    report: dict[str, JsonValue] | None = None
    """An excerpt; `report_url` leads to the whole."""
    report_url: str | None = None
    split_shares: parts.SplitShares | None = None
    """Shares as sent, where splits are drawn by them."""


class Name(Document):
    """A published name and its versions."""

    name: str
    default_version: int
    versions: dict[str, str]
    """Version → model id."""
    class_priors: dict[str, float] | None = None
    """Priors that the default version answers for here."""


class Upload(Document):
    """A file that arrives in pieces; its id takes the place of a body, once."""

    id: str
    bytes: int
    """How large the whole file is."""
    created_at: datetime
    expires_at: datetime
    """24 hours after the last byte."""
    offset: int
    """How much of it is here, safely; the next piece begins there."""


class RankedLabel(Document):
    """One of the `top_k` classes."""

    label: str
    index: int
    confidence: float


class Prediction(Document):
    """The answer for one row."""

    label: str
    index: int
    confidence: float
    """Calibrated probability that the label is right."""
    abstain: bool
    """The confidence is below what `abstain_below` or `max_error` asks for."""
    uncalibrated_confidence: float
    """Confidence of the network, or of an average's first member, without a calibrator."""
    id: str | int | float | None = None
    """Batches: its name, where the dataset has the role `id`."""
    decision: str | None = None
    """With `decision`: the class to act on."""
    familiarity: float | None = None
    """Calibrated models: share of the calibration rows that were at least as strange; small is far."""
    prediction_set: list[str] | None = None
    """With `coverage`; the most probable class first."""
    probabilities: list[float] | None = None
    """With `probabilities`: of all classes, calibrated, in the order of `class_names`."""
    probability: float | None = None
    """Binary models: of the positive class."""
    row: int | None = None
    """Batches: the row in the dataset."""
    top_k: list[RankedLabel] | None = None


class RowError(Document):
    """Error of a row without an answer."""

    code: str
    message: str


class RowFailure(Document):
    """A row of a batch that could not be answered, with `errors: "column"`."""

    error: RowError
    row: int
    id: str | int | float | None = None


class JudgedRow(Document):
    """A test row of a job, with what the served model answers."""

    label: str
    """The class that the dataset says it has."""
    probabilities: list[float]
    """The calibrated probability of each class, in the order of `class_names`."""
    row: int
    """In the dataset."""
    id: str | int | float | None = None
    """Its name, where the dataset has the role `id`."""


class JudgedRows(Document):
    """One page of a job's test rows, in the dataset's order."""

    class_names: list[str]
    """The classes, in the order of `probabilities`."""
    data: list[JudgedRow]
    has_more: bool


class ServedModel(Document):
    """Which model answered."""

    id: str
    name: str
    version: int
    calibrated: bool
