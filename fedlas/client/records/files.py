"""Records of what came as a file: models, datasets, calibrators, uploads in pieces, and the names of models."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from fedlas.client.records.base import Document
from fedlas.client.records.parts import (
    ClassPriors,
    DatasetRoles,
    DecisionThresholds,
    FeatureSpec,
    FittedOn,
    GuaranteesSummary,
    ImagePreprocessing,
    Notice,
    OutputSpec,
    Reading,
    Record,
    SplitCounts,
    SplitShares,
    TensorSpec,
)


class UploadedRecord(Record):
    """What came as a file, with classes."""

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
    """What was done for you."""
    architecture: str | None = None
    class_priors: ClassPriors | None = None
    columns: list[str] | None = None
    """Names of the columns of the single input, in order."""
    cost_factor: float | None = None
    """Cost of an answer, as a multiple of the uploaded model's."""
    decisions: DecisionThresholds | None = None
    features: FeatureSpec | None = None
    guarantees: GuaranteesSummary | None = None
    """What `max_error` and `coverage` can promise."""
    inputs: list[TensorSpec] | None = None
    job_id: str | None = None
    output: OutputSpec | None = None
    parent_id: str | None = None
    preprocessing: ImagePreprocessing | None = None
    reading: Reading | None = None
    report_url: str | None = None
    task: Literal["binary", "multiclass"] | str | None = None
    trainable: bool | None = None
    """False: only a calibrator can be fitted on top."""
    trained_on: list[FittedOn] = Field(default_factory=list)
    """What a calibrated model has seen."""
    warnings: list[str] = Field(default_factory=list)
    """What was passed over, or why it cannot be trained."""


class Dataset(UploadedRecord):
    """A dataset: rows with labels and splits, or rows that are only to be predicted."""

    status: Literal["inspecting", "ready", "rejected"] | str
    format: str | None = None
    adjustments: list[Notice] = Field(default_factory=list)
    """What was done for you."""
    class_counts: dict[str, int] | None = None
    columns: list[str] | None = None
    """Of the single input that numeric columns form, in order."""
    inputs: list[TensorSpec] | None = None
    labelled: bool | None = None
    """False: for predictions only, without classes and splits; null before inspection."""
    num_samples: int | None = None
    purpose: Literal["fit", "predict"] | str | None = None
    """As it was sent."""
    reading: Reading | None = None
    roles: DatasetRoles | None = None
    seen_by_model: Literal["no", "train_split", "unknown"] | str | None = None
    split_shares: SplitShares | None = None
    """As they were sent, where splits are drawn by them."""
    splits: SplitCounts | None = None
    warnings: list[str] = Field(default_factory=list)


class Calibrator(UploadedRecord):
    """A calibrator fitted on scores, without their model."""

    status: Literal["running", "succeeded", "failed"] | str
    method: str
    """What was asked for, and once it is fitted what it is."""
    input: Literal["logits", "probabilities"] | str | None = None
    """What was sent, and the file takes."""
    num_samples: int | None = None
    parameters: dict[str, JsonValue] | None = None
    report: dict[str, JsonValue] | None = None
    """An excerpt; `report_url` leads to the whole."""
    report_url: str | None = None
    split_shares: SplitShares | None = None
    """As they were sent, where splits are drawn by them."""


class Name(Document):
    """A published name and its versions."""

    name: str
    default_version: int
    versions: dict[str, str]
    """Version → model id."""
    class_priors: dict[str, float] | None = None
    """Those that the default version answers for here."""


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
