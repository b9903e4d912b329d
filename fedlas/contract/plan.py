"""The plan: what a dry run found, and what the job would do and cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedlas.contract.base import OPEN, Document
from fedlas.contract.profiles import FeatureSpec, Notice, SeenByModel, SplitCounts

OptionalFigure = float | None


class PlannedClass(Document):
    """A class of the model, and the rows of the dataset that have it."""

    index: int = Field(description="The index of the class in the model's output.")
    name: str = Field(description="The class under its own name.")
    rows: int = Field(description="The number of rows of the dataset that have it.")


class PlannedLabels(Document):
    """The mapping of the dataset's labels to the model's classes."""

    classes: list[PlannedClass] = Field(description="All classes of the model, in the order of its output.")
    matched_by: Annotated[Literal["name", "index"], OPEN] = Field(
        description="`name`: labels are names of classes; `index`: they are indices."
    )


class Leakage(Document):
    """Rows of the judging splits that occur elsewhere too."""

    seen_by_model: Annotated[SeenByModel, OPEN] = Field(description="The rows that the uploaded model was trained on.")
    shared_rows: dict[str, dict[str, int]] = Field(description="Split → other split → rows with the same inputs.")


class UploadedScores(Document):
    """The scores of the uploaded model on one split."""

    split: str = Field(description="The split whose rows were scored.")
    accuracy: OptionalFigure = Field(description="Share of rows whose label is right.")
    confidence: OptionalFigure = Field(description="Mean confidence of the rows' answers.")
    nll: OptionalFigure = Field(description="Mean negative log-likelihood of the labels.")
    brier: OptionalFigure = Field(description="Mean Brier score of the rows.")


class PlanEstimate(Document):
    """The estimated cost of the job, measured on a few steps."""

    minutes: float = Field(description="Minutes that the job takes within its budget.")
    minutes_in_full: float = Field(description="Minutes where every candidate is trained to the end.")
    budget_minutes: float = Field(description="Minutes that the budget of the job allows.")
    candidates: int = Field(description="The number of candidates that would be tried.")
    memory_bytes: int = Field(description="Memory that the job needs at its peak, in bytes.")
    device: str = Field(description="The device on which the steps were measured.")


class DetectableEffect(Document):
    """The smallest gain that the test rows would show."""

    score: str = Field(description="The proper score in which the gain is measured.")
    gain: OptionalFigure = Field(description="The smallest gain that would be shown.")
    power: float = Field(description="The probability with which such a gain is shown.")
    test_rows: int = Field(description="The number of test rows that judge.")
    temperature_would_gain: OptionalFigure = Field(description="The gain of a temperature on the calibration rows.")


class Plan(Document):
    """The plan of a job: what it would find, do and cost."""

    features: FeatureSpec = Field(description="The tensor of penultimate features.")
    trainable: bool = Field(description="Whether the network can be trained; else only calibrators are fitted.")
    trains: bool = Field(description="Whether anything would be trained, rather than only calibrated.")
    labels: PlannedLabels = Field(description="The mapping of labels to classes.")
    leakage: Leakage = Field(description="Rows that occur in several splits, and rows the model has seen.")
    splits: SplitCounts = Field(description="The number of rows in each split.")
    calibrated_on: dict[str, int] | None = Field(
        None, description="Split → rows of it that would calibrate; train rows that were drawn and would be idle do."
    )
    uploaded: UploadedScores = Field(description="The scores of the uploaded model as it is.")
    estimate: PlanEstimate = Field(description="Time and memory that the job would take.")
    detectable_effect: DetectableEffect | None = Field(
        description="The smallest gain that test rows would show; null: nothing can be judged."
    )
    warnings: list[Notice] = Field(description="Findings that look wrong with model or dataset.")
    fails_with: str | None = Field(None, description="The code of a warning with which the job would fail.")
    adjustments: list[Notice] = Field(default_factory=list, description="Changes that were made for you.")
