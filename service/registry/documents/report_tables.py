"""The tables of a report: curves, classes, slices, the positive class, and guarantees on the test rows."""

from __future__ import annotations

from service.registry.documents.base import Document
from service.registry.documents.estimates import Estimate, Figure, Figures


class ConfidenceSummary(Document):
    """Mean confidence beside accuracy, and the ECE split by its sign."""

    mean_confidence: Figure
    accuracy: Figure
    over_confidence: Figure
    under_confidence: Figure


class CalibrationTest(Document):
    """A test of perfect calibration."""

    statistic: Figure
    p_value: Figure
    num_draws: int


class Reliability(Document):
    """A reliability curve with its consistency band, bin by bin."""

    edges: Figures
    counts: list[int]
    mean_confidence: Figures
    accuracy: Figures
    band_low: Figures
    band_high: Figures


class SetAside(Document):
    """The share of rows below a threshold, and the error rate among the others."""

    share: Figure
    threshold: Figure
    error_rate: Estimate


class RiskCoverage(Document):
    """The error rate among the most confident rows, at several coverages."""

    coverage: Figures
    thresholds: Figures
    error_rate: Figures
    low: Figures
    high: Figures
    set_aside: SetAside


class ClassRow(Document):
    """One class on the test rows."""

    index: int
    name: str
    num_rows: int
    num_predicted: int
    recall: Estimate | None
    precision: Estimate | None
    mean_confidence: Figure
    gap: Estimate | None
    calibration_error_l2: Estimate
    brier: Figure
    p_value: Figure
    p_adjusted: Figure


class ClassTable(Document):
    """The worst classes, worst first."""

    num_classes: int
    correction: str
    rows: list[ClassRow]


class SliceRow(Document):
    """The rows with one value of a slice column."""

    column: str
    value: str
    num_rows: int
    accuracy: Estimate
    mean_confidence: Figure
    gap: Estimate
    brier: Estimate
    nll: Estimate
    p_miscalibrated: Figure
    p_worse: Figure


class SliceTable(Document):
    """The worst slices, worst first, and the columns that were passed over."""

    num_slices: int
    correction: str
    skipped: list[str]
    rows: list[SliceRow]


class PositiveClass(Document):
    """The positive class in one model, with the calibration line where one exists."""

    prevalence: Figure
    mean_probability: Figure
    ece: Figure
    calibration_error_l2: Estimate | None
    average_precision: Estimate | None
    recall: Figure
    precision: Figure
    slope: Estimate | None
    intercept: Estimate | None


class BinarySection(Document):
    """The positive class of a two-class problem in the three models."""

    positive_class: str
    uploaded: PositiveClass
    temperature: PositiveClass
    calibrated: PositiveClass


class ErrorLevel(Document):
    """A promised error rate: the threshold that keeps it, or the nearest level that one can keep (`reachable`)."""

    level: float
    threshold: Figure
    reachable: Figure
    answered: Figure
    error_rate: Estimate | None


class CoverageLevel(Document):
    """A promised coverage: the mean size of the sets and the share that held the true class, or what is reachable."""

    level: float
    reachable: Figure
    mean_size: Figure
    covered: Estimate | None


class GuaranteeTable(Document):
    """What the guarantees promise, and what came of it on the test rows."""

    num_rows: int
    num_groups: int | None
    delta: float
    max_error: list[ErrorLevel]
    coverage: list[CoverageLevel]
