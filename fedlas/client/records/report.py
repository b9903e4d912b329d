"""The report of a job, as the server writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from fedlas.client.records.base import Document
from fedlas.client.records.figures import ByModel, Differences, Estimates
from fedlas.client.records.judgement import (
    AddedParts,
    CandidateSummary,
    EvaluationLedger,
    GateVerdict,
    GuaranteeTable,
    LabelNoise,
    LossComparison,
    WrittenFile,
)
from fedlas.client.records.parts import Notice
from fedlas.client.records.sections import (
    BinarySection,
    CalibrationTest,
    ClassTable,
    ConfidenceGaps,
    ConfidenceSummary,
    ConfidentSection,
    DecisionTable,
    Diagnostics,
    PriorsSection,
    Reliability,
    RiskCoverage,
    SliceTable,
    Subject,
    WorstParts,
)


class ReportDocument(Document):
    """All evidence of one job, as `GET /v1/jobs/{id}/report` answers it."""

    verdict: Literal["trained", "post_hoc", "unchanged", "undetermined"] | str
    promoted: bool
    shown: bool | None = None
    confidence: ByModel[ConfidenceSummary]
    adjustments: list[Notice]
    advice: list[str]
    binary: BinarySection | None = None
    calibration_test: ByModel[CalibrationTest]
    candidates: list[CandidateSummary]
    class_priors: PriorsSection | None = None
    classes: ClassTable
    confidence_gap: ByModel[ConfidenceGaps] | None = None
    confidence_level: float
    confident_answers: ByModel[ConfidentSection]
    decisions: DecisionTable | None = None
    differences: Differences
    digests: dict[str, str]
    duplicates: dict[str, int] | None = None
    gate: GateVerdict
    guarantees: GuaranteeTable | None = None
    label_noise: LabelNoise | None = None
    looks: EvaluationLedger | None = None
    loss_comparison: LossComparison | None = None
    machine: dict[str, JsonValue]
    metrics: ByModel[Estimates]
    notes: list[str]
    notices: list[Notice]
    num_classes: int
    num_groups: int | None = None
    num_test_rows: int
    parts: AddedParts | None = None
    recipe: dict[str, JsonValue]
    recipe_in_words: list[str]
    reliability: ByModel[Reliability]
    risk_coverage: ByModel[RiskCoverage]
    seed: int
    seen_by_model: Literal["no", "train_split", "unknown"] | str | None = None
    signs: Diagnostics | None = None
    slices: SliceTable | None = None
    subject: Subject | None = None
    summary: list[str]
    trained_rows: dict[str, int] | None = None
    versions: dict[str, str]
    warnings: list[str]
    worst: WorstParts
    written_file: WrittenFile | None = None
