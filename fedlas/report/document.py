"""The calibration report as a document: the content of report.json, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from fedlas.documents import as_json, from_json
from fedlas.gate.verdict import GateVerdict
from fedlas.metrics import (
    CalibrationTest,
    ClassRow,
    ConfidenceGap,
    CorpBand,
    CorpCurve,
    Estimate,
    PositiveClass,
    ReliabilityCurve,
    RiskCoverageCurve,
    SliceTable,
)
from fedlas.metrics._checks import Floats
from fedlas.metrics.evaluate import Estimates
from fedlas.notice import Notice
from fedlas.report.confident import ConfidentSection
from fedlas.report.deployment import DecisionTable, GuaranteeTable, PriorsSection
from fedlas.report.diagnostics import Diagnostics
from fedlas.report.label_noise import LabelNoise
from fedlas.report.parts import AddedParts, LossComparison
from fedlas.report.provenance import Subject, WrittenFile

T = TypeVar("T")
#: Values under `uploaded`, `temperature` and `calibrated`.
ByModel: TypeAlias = Mapping[str, T]


@dataclass(frozen=True)
class ConfidenceSummary:
    """Mean confidence beside accuracy, and the ECE split by its sign."""

    mean_confidence: float
    accuracy: float
    over_confidence: float
    under_confidence: float


@dataclass(frozen=True)
class ConfidenceGaps:
    """What a model says minus how often it is right: on the test rows, and out of fold where that is known."""

    test: ConfidenceGap
    out_of_fold: ConfidenceGap | None


@dataclass(frozen=True)
class Corp(CorpCurve):
    """A reliability curve without bins, rounded to a hundred-thousandth, with its consistency band."""

    band: CorpBand


@dataclass(frozen=True)
class Reliability(ReliabilityCurve):
    """A reliability curve with its consistency band, and the one without bins."""

    band_low: Floats
    band_high: Floats
    corp: Corp


@dataclass(frozen=True)
class SetAside:
    """The share of rows with a confidence below `threshold`, and the error rate among the others."""

    share: float
    threshold: float
    error_rate: Estimate


@dataclass(frozen=True)
class RiskCoverageSection(RiskCoverageCurve):
    """A risk-coverage curve, rounded to a millionth, and its point where about a fifth of the rows is set aside."""

    set_aside: SetAside


@dataclass(frozen=True)
class NamedClassRow(ClassRow):
    """A class under its name."""

    name: str


@dataclass(frozen=True)
class ClassTable:
    """The worst of `num_classes` classes, worst first."""

    num_classes: int
    correction: str
    rows: tuple[NamedClassRow, ...]


@dataclass(frozen=True)
class PositiveClassSection(PositiveClass):
    """The positive class in one model, with the calibration line where one exists."""

    slope: Estimate | None
    intercept: Estimate | None


@dataclass(frozen=True)
class BinarySection:
    """The positive class of a two-class problem in the three models."""

    positive_class: str
    uploaded: PositiveClassSection
    temperature: PositiveClassSection
    calibrated: PositiveClassSection


@dataclass(frozen=True)
class EvaluationLedger:
    """The number of earlier looks at the same test rows."""

    before: int


@dataclass(frozen=True)
class WorstParts:
    """The worst class and the worst slice, in a sentence each."""

    class_: str = field(metadata={"key": "class"})
    slice: str | None


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """All evidence of one job, as `GET /v1/jobs/{id}/report` answers it.

    `subject`: whose report it is. `advice`: what is served with what it says and how often that is right, and the next
    step; `summary` begins with it. `warnings`: the messages of `notices` (what looked wrong with model and dataset,
    with its evidence), then what is doubtful about the test rows; `adjustments`: what was done for their owner;
    `notes`: what else there is to know. `recipe_in_words`: the recipe as sentences.
    `duplicates`: split → test rows whose inputs occur there too. `recipe`: the request, the winner and its calibrator,
    enough to repeat the job. `written_file`: how near the served file is to what was judged; None where
    nothing was to be written. `parts`: what each part that was tried added to the one before it; `loss_comparison`:
    FedLAS against label smoothing and cross-entropy, both None where there are no out-of-fold scores. `trained_rows`:
    split → rows that the served network was trained on, None where it was not trained.
    """

    subject: Subject | None
    verdict: str
    promoted: bool
    shown: bool | None
    summary: tuple[str, ...]
    advice: tuple[str, ...]
    warnings: tuple[str, ...]
    notices: tuple[Notice, ...]
    adjustments: tuple[Notice, ...]
    notes: tuple[str, ...]
    metrics: ByModel[Estimates]
    differences: Mapping[str, Estimates]
    confidence_gap: ByModel[ConfidenceGaps]
    confidence: ByModel[ConfidenceSummary]
    confident_answers: ByModel[ConfidentSection]
    calibration_test: ByModel[CalibrationTest]
    risk_coverage: ByModel[RiskCoverageSection]
    reliability: ByModel[Reliability]
    num_test_rows: int
    num_groups: int | None
    num_classes: int
    confidence_level: float
    classes: ClassTable
    slices: SliceTable | None
    binary: BinarySection | None
    gate: GateVerdict
    ledger: EvaluationLedger | None = field(metadata={"key": "looks"})
    guarantees: GuaranteeTable | None
    decisions: DecisionTable | None
    class_priors: PriorsSection | None
    label_noise: LabelNoise | None
    diagnostics: Diagnostics | None = field(metadata={"key": "signs"})
    parts: AddedParts | None
    loss_comparison: LossComparison | None
    trained_rows: Mapping[str, int] | None
    candidates: tuple[Mapping[str, Any], ...]
    recipe: Mapping[str, Any]
    recipe_in_words: tuple[str, ...]
    seed: int
    seen_by_model: str | None
    duplicates: Mapping[str, int] | None
    digests: Mapping[str, str]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    worst: WorstParts
    written_file: WrittenFile | None

    def as_dict(self) -> dict[str, Any]:
        """Strict JSON."""
        content: dict[str, Any] = as_json(self)
        return content


def report_from_json(content: Any) -> CalibrationReport:
    """The report that a `report.json` holds.

    Raises:
        ValueError: a field is missing or of another kind, as of a report that another version wrote.
    """
    return from_json(CalibrationReport, content)
