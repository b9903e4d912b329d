"""The plan of a job: what a dry run found, without training anything."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedlas.client.records.base import Document
from fedlas.client.records.parts import FeatureSpec, Notice, SplitCounts


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
