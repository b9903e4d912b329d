"""The report of a job: candidates, the gate, the written file, what is promised, and the whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from fedlas.client.records import sections
from fedlas.client.records.parts import ByModel, Differences, Document, Estimate, Estimates, Notice

Finalist = Literal["same_labels", "post_hoc", "trained", "average"] | str


class FittedCalibrator(Document):
    """A calibrator with its parameters, whose names and shapes are its own."""

    name: str
    parameters: dict[str, JsonValue]


class CandidateSummary(Document):
    """One candidate of the race on the calibration rows."""

    name: str
    status: str
    """`finished`, `skipped`, `eliminated` (not among the best of the first folds), `dropped`, `diverged`."""
    calibration: dict[str, float | None] | None = None
    """Metric → score; null: not trained to the end."""
    calibrator: FittedCalibrator | None = None
    hyperparameters: dict[str, JsonValue]
    method: str
    reason: str
    scope: str
    """`all`, `head`, or `none` where nothing is trained."""


class ScoreDifference(Document):
    """Mean score difference (negative is better) with the interval that matches the one-sided test."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    against: str
    p_value: float | None = None


class GateClaim(Document):
    """`finalist` beats everything in `comparisons`; `level` is what Holm's procedure allowed it."""

    shown: bool
    comparisons: list[ScoreDifference]
    finalist: Finalist
    level: float
    p_value: float | None = None
    rows_needed: int | None = None


class GateGuard(Document):
    """One thing that a promoted finalist may not worsen beyond `limit`; the interval where there is one."""

    name: str
    value: float | None = None
    finalist: Finalist
    limit: float | None = None
    passed: bool
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    class_index: int | None = None


class GateVeto(Document):
    """A finalist that gives way: a guard of that name failed, or (`worse`) it is shown to be worse than `against`."""

    value: float | None = None
    finalist: Finalist
    reason: str
    against: str | None = None
    p_value: float | None = None
    score: str | None = None


class GateVerdict(Document):
    """The verdict says what is served (`trained`, `post_hoc`, `unchanged`, `undetermined`), `shown` what is
    proven."""

    verdict: Literal["trained", "post_hoc", "unchanged", "undetermined"] | str
    promoted: bool
    claims: list[GateClaim]
    guards: list[GateGuard]
    score: str
    sentences: list[str]
    shown: bool | None = None
    finalist: Finalist | None = None
    level: float | None = None
    looks_before: int = 0
    order: list[Finalist] = Field(default_factory=list)
    vetoes: list[GateVeto] = Field(default_factory=list)


class CoverageLevel(Document):
    """A promised coverage: mean size of the sets and the share that held the true class, or what is reachable."""

    covered: Estimate | None = None
    level: float
    mean_size: float | None = None
    reachable: float | None = None


class ErrorLevel(Document):
    """A promised error rate: the threshold that keeps it, or the nearest level that one can keep (`reachable`)."""

    answered: float | None = None
    error_rate: Estimate | None = None
    level: float
    reachable: float | None = None
    threshold: float | None = None


class GuaranteeTable(Document):
    """The guarantees from `num_rows` guarantee rows, each kind failing with probability `delta` at most."""

    coverage: list[CoverageLevel]
    delta: float
    max_error: list[ErrorLevel]
    num_groups: int | None = None
    num_rows: int


class NoiseLevel(Document):
    """A share of wrong labels: how often each verdict was drawn, and in how many draws it stayed the same."""

    rows: int
    same: int
    share: float
    verdicts: dict[str, float]


class LabelNoise(Document):
    """The verdict on the labels as they are, and under each share of wrong ones."""

    verdict: str
    draws: int
    levels: list[NoiseLevel]
    sentences: list[str]


class EvaluationLedger(Document):
    """The number of earlier looks at the same test rows."""

    before: int


class MethodDifference(Document):
    """FedLAS's NLL minus the rival's, out of fold: the mean, and on how many rows it is lower and higher."""

    against: Literal["label_smoothing", "cross_entropy"] | str
    finding: Literal["better", "no_difference_shown", "worse"] | str
    nll: Estimate
    rows_better: int
    rows_worse: int


class LossComparison(Document):
    """The better of FedLAS and FedLAS+ against the other losses; `method` is None where neither was trained."""

    differences: list[MethodDifference]
    method: Literal["fedlas", "fedlas_plus"] | str | None = None
    num_rows: int
    sentence: str


class PartScore(Document):
    """The mean score of a part, and the mean paired change from the part before it (negative is better)."""

    value: float | None = None
    change: Estimate | None = None


class AddedPart(Document):
    """One part with its scores; None where it was not scored on these rows."""

    name: Literal["uploaded", "temperature", "post_hoc", "trained", "average"] | str
    out_of_fold_nll: PartScore | None = None
    served: bool
    test_brier: PartScore | None = None
    test_nll: PartScore | None = None


class AddedParts(Document):
    """The parts that were tried, each compared with the one before it, and the changes in a sentence."""

    num_calibration_rows: int
    rows: list[AddedPart]
    sentence: str


class GaveWay(Document):
    """A finalist that could not be written as a file that computes what was judged; the next was served in its
    place."""

    code: str
    finalist: Finalist | str
    reason: str


class RuntimeRounding(Document):
    """The largest difference in a probability between forms of one graph in ONNX Runtime, on so many rows."""

    double_precision: float | None = None
    num_rows: int
    unoptimised: float | None = None


class Parity(Document):
    """The distance of a file's probabilities, as ONNX Runtime computes them, from the network's that was judged."""

    decisions_changed: int
    limit: float
    max_probability_error: float
    num_rows: int
    brier_change: float | None = None
    nll_change: float | None = None
    rounding: RuntimeRounding | None = None


class WrittenFile(Document):
    """The proof of the served file, None where the upload is served as it came, and the finalists that gave way."""

    parity: Parity | None = None
    gave_way: list[GaveWay] = Field(default_factory=list)


class ReportDocument(Document):
    """All evidence of one job, as `GET /v1/jobs/{id}/report` answers it."""

    verdict: Literal["trained", "post_hoc", "unchanged", "undetermined"] | str
    promoted: bool
    shown: bool | None = None
    confidence: ByModel[sections.ConfidenceSummary]
    adjustments: list[Notice]
    advice: list[str]
    binary: sections.BinarySection | None = None
    calibration_test: ByModel[sections.CalibrationTest]
    candidates: list[CandidateSummary]
    class_priors: sections.PriorsSection | None = None
    classes: sections.ClassTable
    confidence_gap: ByModel[sections.ConfidenceGaps] | None = None
    confidence_level: float
    confident_answers: ByModel[sections.ConfidentSection]
    decisions: sections.DecisionTable | None = None
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
    reliability: ByModel[sections.Reliability]
    risk_coverage: ByModel[sections.RiskCoverage]
    seed: int
    seen_by_model: Literal["no", "train_split", "unknown"] | str | None = None
    signs: sections.Diagnostics | None = None
    slices: sections.SliceTable | None = None
    subject: sections.Subject | None = None
    summary: list[str]
    trained_rows: dict[str, int] | None = None
    versions: dict[str, str]
    warnings: list[str]
    worst: sections.WorstParts
    written_file: WrittenFile | None = None
