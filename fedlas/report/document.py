"""The calibration report as a document, the content of report.json, and the evidence that it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from numpy.typing import ArrayLike

from fedlas.deployment import Deployment
from fedlas.documents import Json, as_json, from_json
from fedlas.gate.verdict import GateVerdict
from fedlas.guarantees import Guarantees
from fedlas.metrics import CalibrationTest, SliceTable
from fedlas.metrics.confidence_gap import SplitAccuracy
from fedlas.metrics.evaluate import Estimates
from fedlas.notice import Notice
from fedlas.report.deployment import DecisionTable, GuaranteeTable, PriorsSection
from fedlas.report.diagnostics import Diagnostics
from fedlas.report.label_noise import LabelNoise
from fedlas.report.parts import AddedParts, LossComparison, OutOfFold
from fedlas.report.provenance import Subject, WrittenFile
from fedlas.report.sections import (
    BinarySection,
    ClassTable,
    ConfidenceGaps,
    ConfidenceSummary,
    ConfidentSection,
    Reliability,
    RiskCoverageSection,
    WorstParts,
)

T = TypeVar("T")
ByModel: TypeAlias = Mapping[str, T]


@dataclass(frozen=True)
class EvaluationLedger:
    """The number of earlier looks at the same test rows."""

    before: int


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
        content: dict[str, Any] = as_json(self)
        return content


def report_from_json(content: Any) -> CalibrationReport:
    """The report that a `report.json` holds.

    Raises:
        ValueError: a field is missing or of another kind, as of a report that another version wrote.
    """
    return from_json(CalibrationReport, content)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The test rows of one job, three models' probabilities on them, and what stands beside them in the report.

    Attributes:
        uploaded, temperature, calibrated: probabilities (N, K) of the uploaded model, of the same with a temperature,
            and of the model that is to be served; targets: class indices (N,); groups: of the rows (N,), if any.
        class_names: the K names in order; `positive_class` is one of them where K = 2 (the second by default).
        finalists: probabilities (N, K) of `uploaded`, `temperature` and everything that was judged, by name.
        trained_rows: split → rows that the served network was trained on, where it was trained at all.
        slices: columns (N,) by name; every value is a slice. Numbers with many values are cut into quarters.
        guarantees, deployment: of the model that is to be served; its probabilities are those before priors shift them.
        evaluations_before: how often the test rows had judged before, as the evaluation ledger says.
        seen_by_model: which rows the model has seen, as the dataset says (`no`, `train_split`, `unknown`).
        calibration_accuracy: of the uploaded model, to compare with its accuracy on test rows.
        candidates: `CandidateResult.as_dict()` of all candidates of the race.
        machine: added to what `machine_facts` finds.
        written_file: the proof of the file that is served, and what gave way to it.
        warnings, adjustments: what looked wrong with model and dataset, and what was done for their owner.
        notes: further sentences for the summary (budget, warnings of the dataset).
    """

    gate: GateVerdict
    uploaded: ArrayLike
    temperature: ArrayLike
    calibrated: ArrayLike
    targets: ArrayLike
    groups: ArrayLike | None = None
    class_names: Sequence[str] | None = None
    positive_class: str | None = None
    finalists: Mapping[str, ArrayLike] = field(default_factory=dict)
    out_of_fold: OutOfFold | None = None
    trained_rows: Mapping[str, int] | None = None
    slices: Mapping[str, ArrayLike] = field(default_factory=dict)
    diagnostics: Diagnostics | None = None
    label_noise: LabelNoise | None = None
    guarantees: Guarantees | None = None
    deployment: Deployment | None = None
    evaluations_before: int | None = None
    seen_by_model: str | None = None
    calibration_accuracy: SplitAccuracy | None = None
    duplicates: Mapping[str, int] | None = None
    candidates: Sequence[Mapping[str, object]] = ()
    recipe: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] | None = None
    machine: Mapping[str, Json] = field(default_factory=dict)
    warnings: Sequence[Notice] = ()
    adjustments: Sequence[Notice] = ()
    notes: Sequence[str] = ()
    subject: Subject | None = None
    written_file: WrittenFile | None = None
