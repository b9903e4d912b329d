"""The report: the evidence of one job, as `GET /v1/jobs/{id}/report` answers it."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import Field, JsonValue

from service.registry.documents.base import Document
from service.registry.documents.dataset_profile import SeenByModel
from service.registry.documents.diagnostics import Diagnostics, LabelNoise
from service.registry.documents.estimates import Estimates
from service.registry.documents.gate_verdict import GateVerdict, Verdict
from service.registry.documents.report_tables import (
    BinarySection,
    CalibrationTest,
    ClassTable,
    ConfidenceSummary,
    GuaranteeTable,
    Reliability,
    RiskCoverage,
    SliceTable,
)

Section = TypeVar("Section")


class ByModel(Document, Generic[Section]):
    """A section for the uploaded model, for it with a temperature, and for the model that is served."""

    uploaded: Section
    temperature: Section
    calibrated: Section


class Differences(Document):
    """Metrics of the served model minus those of another, paired by row."""

    calibrated_minus_uploaded: Estimates
    calibrated_minus_temperature: Estimates


class FittedCalibrator(Document):
    """A calibrator with its parameters, whose names and shapes are its own."""

    name: str
    parameters: dict[str, JsonValue]


class CandidateSummary(Document):
    """One candidate of the race on the calibration rows."""

    name: str
    method: str
    hyperparameters: dict[str, JsonValue]
    scope: str = Field(description="`all`, `head`, or `none` where nothing is trained.")
    status: str = Field(description="`finished`, `skipped`, `halved`, `dropped` or `diverged`.")
    reason: str
    calibration: dict[str, float | None] | None = Field(description="Metric → score; null: not trained to the end.")
    calibrator: FittedCalibrator | None


class EvaluationLedger(Document):
    """How often the test rows had judged before."""

    before: int


class WorstParts(Document):
    """The worst class and the worst slice, in a sentence each."""

    class_: str = Field(alias="class")
    slice: str | None


class Report(Document):
    """All evidence of one job."""

    verdict: Verdict
    promoted: bool
    summary: list[str]
    advice: list[str]
    warnings: list[str]
    metrics: ByModel[Estimates]
    differences: Differences
    confidence: ByModel[ConfidenceSummary]
    calibration_test: ByModel[CalibrationTest]
    risk_coverage: ByModel[RiskCoverage]
    reliability: ByModel[Reliability]
    num_test_rows: int
    num_groups: int | None
    num_classes: int
    confidence_level: float
    classes: ClassTable
    slices: SliceTable | None
    binary: BinarySection | None
    gate: GateVerdict
    looks: EvaluationLedger | None
    guarantees: GuaranteeTable | None
    label_noise: LabelNoise | None
    signs: Diagnostics | None
    candidates: list[CandidateSummary]
    recipe: dict[str, JsonValue] = Field(description="The request, the winner and its calibrator: enough to repeat it.")
    seed: int
    seen_by_model: SeenByModel | None
    duplicates: dict[str, int] | None = Field(description="Split → test rows whose inputs occur there too.")
    digests: dict[str, str]
    versions: dict[str, str]
    machine: dict[str, JsonValue]
    worst: WorstParts
