"""Sections of a report: confidence, classes, slices, decisions, and what features say, all of them figures."""

from __future__ import annotations

from pydantic import Field

from fedlas.client.records.parts import Document, Estimate


class PositiveClass(Document):
    """The positive class in one model, with the calibration line where one exists."""

    average_precision: Estimate | None = None
    calibration_error_l2: Estimate | None = None
    ece: float | None = None
    intercept: Estimate | None = None
    mean_probability: float | None = None
    precision: float | None = None
    prevalence: float | None = None
    recall: float | None = None
    slope: Estimate | None = None


class BinarySection(Document):
    """The positive class of a two-class problem in the three models."""

    calibrated: PositiveClass
    positive_class: str
    temperature: PositiveClass
    uploaded: PositiveClass


class CalibrationTest(Document):
    """`statistic` of the model, and how often a calibrated model with its confidences reaches it by chance."""

    num_draws: int
    p_value: float | None = None
    statistic: float | None = None


class PriorsSection(Document):
    """Class priors by name: `shares` of the calibration rows, and the `default` of the answers."""

    default: dict[str, float | None]
    shares: dict[str, float | None]
    shifted: bool


class ClassRow(Document):
    """A class under its name."""

    name: str
    index: int
    brier: float | None = None
    calibration_error_l2: Estimate
    gap: Estimate | None = None
    mean_confidence: float | None = None
    num_predicted: int
    num_rows: int
    p_adjusted: float | None = None
    p_value: float | None = None
    precision: Estimate | None = None
    recall: Estimate | None = None


class ClassTable(Document):
    """The worst of `num_classes` classes, worst first."""

    correction: str
    num_classes: int
    rows: list[ClassRow]


class ConfidenceGap(Document):
    """Mean confidence beside accuracy; `gap` is the first minus the second, positive where answers are too sure."""

    accuracy: float | None = None
    gap: float | None = None
    mean_confidence: float | None = None
    num_rows: int
    standard_error: float | None = None


class ConfidenceGaps(Document):
    """Mean confidence minus accuracy of a model: on the test rows, and out of fold where that is known."""

    out_of_fold: ConfidenceGap | None = None
    test: ConfidenceGap


class ConfidenceSummary(Document):
    """Mean confidence beside accuracy, and the ECE split by its sign."""

    accuracy: float | None = None
    mean_confidence: float | None = None
    over_confidence: float | None = None
    under_confidence: float | None = None


class ConfidentSection(Document):
    """The answers with a confidence of at least `threshold`; `hold`: they are not shown to be too sure."""

    accuracy: float | None = None
    excess: float | None = None
    hold: bool
    mean_confidence: float | None = None
    num_rows: int
    threshold: float
    worst_class: str | None = None


class Answers(Document):
    """The share of test rows that are answered with one class, and the share of its rows among them."""

    answered: float | None = None
    recall: Estimate | None = None


class DecisionRow(Document):
    """One class: answered by the uploaded model, by the served one at its argmax, and by it with the thresholds."""

    name: str
    argmax: Answers
    num_rows: int
    threshold: float | None = None
    thresholds: Answers
    uploaded: Answers


class DecisionTable(Document):
    """The decisions of the served model, with thresholds that `keep` something of the uploaded one."""

    accuracy: float | None = None
    keep: str
    num_classes: int
    rows: list[DecisionRow]


class CorpBand(Document):
    """The range, point by point, in which the CORP curve of a calibrated model lies."""

    confidence: list[float | None]
    high: list[float | None]
    low: list[float | None]


class Corp(Document):
    """A reliability curve without bins, with its consistency band and the parts of the top label's Brier score."""

    accuracy: list[float | None]
    band: CorpBand
    counts: list[int]
    discrimination: float | None = None
    ends: list[float | None]
    miscalibration: float | None = None
    starts: list[float | None]
    uncertainty: float | None = None


class Reliability(Document):
    """A reliability curve with its consistency band, and the one without bins."""

    accuracy: list[float | None]
    band_high: list[float | None]
    band_low: list[float | None]
    corp: Corp
    counts: list[int]
    edges: list[float | None]
    mean_confidence: list[float | None]


class SetAside(Document):
    """The share of rows with a confidence below `threshold`, and the error rate among the others."""

    error_rate: Estimate
    share: float | None = None
    threshold: float | None = None


class RiskCoverage(Document):
    """A risk-coverage curve, rounded to a millionth, and its point where about a fifth of the rows is set aside."""

    low: list[float | None]
    high: list[float | None]
    coverage: list[float | None]
    error_rate: list[float | None]
    set_aside: SetAside
    thresholds: list[float | None]


class SmoothingDiagnostic(Document):
    """The mean smoothing of right and of wrong rows, and the difference; None of fewer than two rows."""

    right: Estimate | None = None
    wrong: Estimate | None = None
    wrong_minus_right: Estimate | None = None


class NormDiagnostic(Document):
    """The AUROC of the feature norm for correctness, and whether it is shown to be useful."""

    auroc: Estimate
    useful: bool


class GateDiagnostic(Document):
    """The share of rows with sign +1, and the share whose sign training flipped; None where that is not known."""

    flipped: Estimate | None = None
    positive: Estimate


class Diagnostics(Document):
    """Norms, smoothing and gate on right and on wrong rows; None where nothing can be computed."""

    epsilon: SmoothingDiagnostic | None = None
    feature_norm: NormDiagnostic | None = None
    gate: GateDiagnostic | None = None
    num_right: int
    num_rows: int
    sentences: list[str]


class SliceRow(Document):
    """One value of one slice column: intervals are pointwise, the adjusted p-values hold for all slices together."""

    value: str
    accuracy: Estimate
    brier: Estimate
    column: str
    gap: Estimate
    mean_confidence: float | None = None
    nll: Estimate
    num_rows: int
    p_miscalibrated: float | None = None
    p_worse: float | None = None


class SliceTable(Document):
    """The worst slices, worst first, out of `num_slices`; `skipped` columns have too many values."""

    correction: str
    num_slices: int
    rows: list[SliceRow]
    skipped: list[str]


class Named(Document):
    """A model or dataset, as far as it has a name, an id, or a file whose digest is known."""

    id: str | None = None
    name: str | None = None
    sha256: str | None = None


class Subject(Document):
    """Subject of a report; a field is None where there is no such thing, as of a job in a notebook."""

    created_at: str | None = None
    dataset: Named | None = None
    job_id: str | None = None
    model: Named | None = None


class WorstParts(Document):
    """The worst class and the worst slice, in a sentence each."""

    class_: str = Field(alias="class")
    slice: str | None = None
