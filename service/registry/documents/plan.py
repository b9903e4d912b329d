"""The plan: what a dry run found, without training anything."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from service.registry.documents.dataset_profile import SeenByModel, SplitCounts
from service.registry.documents.model_profile import FeatureSpec
from service.registry.documents.notice import Notice
from service.registry.documents.report import Figure
from service.registry.json_models import Document


class PlannedClass(Document):
    """A class of the model, and the rows of the dataset that have it."""

    index: int
    name: str
    rows: int


class PlannedLabels(Document):
    """The mapping of the dataset's labels to the model's classes."""

    classes: list[PlannedClass]
    matched_by: Literal["name", "index"]


class Leakage(Document):
    """Rows of the judging splits that occur elsewhere too."""

    seen_by_model: SeenByModel
    shared_rows: dict[str, dict[str, int]] = Field(description="Split → other split → rows with the same inputs.")


class UploadedScores(Document):
    """The uploaded model on one split."""

    split: str
    accuracy: Figure
    confidence: Figure
    nll: Figure
    brier: Figure


class PlanEstimate(Document):
    """The estimated cost of the job, measured on a few steps."""

    minutes: float = Field(description="Within the budget.")
    minutes_in_full: float = Field(description="Where every candidate is trained to the end.")
    budget_minutes: float
    candidates: int
    memory_bytes: int
    device: str


class DetectableEffect(Document):
    """The smallest gain that the test rows would show."""

    score: str
    gain: Figure
    power: float
    test_rows: int
    temperature_would_gain: Figure = Field(description="On the calibration rows.")


class Plan(Document):
    """The plan of a job: what its order would do."""

    features: FeatureSpec
    trainable: bool
    trains: bool = Field(description="Whether anything would be trained, rather than only calibrated.")
    labels: PlannedLabels
    leakage: Leakage
    splits: SplitCounts
    calibrated_on: dict[str, int] | None = Field(
        None, description="Split → rows of it that would calibrate; train rows that were drawn and would be idle do."
    )
    uploaded: UploadedScores
    estimate: PlanEstimate
    detectable_effect: DetectableEffect | None
    warnings: list[Notice]
    fails_with: str | None = Field(None, description="The code of a warning with which the job would fail.")
    adjustments: list[Notice] = Field(default_factory=list)

    @field_validator("warnings", mode="before")
    @classmethod
    def _of_an_earlier_release(cls, warnings: object) -> object:
        """Plans held sentences before notices."""
        if not isinstance(warnings, list):
            return warnings
        return [{"code": "dataset", "message": one} if isinstance(one, str) else one for one in warnings]
