"""Figures of a report: estimates with intervals, and what curves, classes, slices and gaps are made of.

A figure that does not exist is null in JSON and NaN in Python. Metrics are fractions.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

from fedlas.contract.base import Counts, Document, Figure, Figures

Section = TypeVar("Section")

NumRows = Annotated[int, Field(description="The number of rows on which the figures rest.")]
AdjustedPValue = Annotated[float | None, Field(description="The p-value after Holm over all rows of the table.")]
Low = Annotated[Figure, Field(description="The lower end of the interval.")]
High = Annotated[Figure, Field(description="The upper end of the interval.")]
MeanConfidence = Annotated[Figure, Field(description="Mean confidence of the rows' answers.")]
Accuracy = Annotated[Figure, Field(description="Share of rows whose label is right.")]
Correction = Annotated[str, Field(description="The correction of p-values for the number of tests.")]

#: A gap is beyond chance from so many of its standard errors on.
MAX_STANDARD_ERRORS = 2.0


class Estimate(Document):
    """A figure and its interval."""

    value: Figure = Field(description="The figure itself; null where it does not exist.")
    low: Low
    high: High


class BinnedEstimate(Document):
    """A binned error beside the range it takes for a calibrated model with the same probabilities."""

    value: Figure = Field(description="The figure itself; null where it does not exist.")
    floor_low: Figure = Field(description="The least that a calibrated model with these probabilities would have.")
    floor_high: Figure = Field(description="The most that a calibrated model with these probabilities would have.")


class Indexed(Document):
    """A document whose fields may be asked for by name."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class Estimates(Indexed):
    """The metrics of one model, or of the difference between two."""

    accuracy: Estimate = Field(description="Share of rows whose label is right.")
    nll: Estimate = Field(description="Mean negative log-likelihood of the labels.")
    brier: Estimate = Field(description="Mean Brier score, summed over the classes.")
    calibration_error_l2: Estimate = Field(description="Debiased squared calibration error of the top label.")
    ece: BinnedEstimate | Estimate = Field(description="Expected calibration error of the top label, 15 bins.")
    adaptive_ece: BinnedEstimate | Estimate = Field(description="ECE of the top label in bins of equal numbers.")
    classwise_ece: BinnedEstimate | Estimate = Field(description="ECE of every class's probability, on average.")
    aurc: Estimate = Field(description="Area under the risk-coverage curve.")
    augrc: Estimate = Field(description="Area under the generalized risk-coverage curve.")


class ByModel(Indexed, Generic[Section]):
    """A section for the uploaded model, for it with a temperature, and for the model that is served."""

    uploaded: Section = Field(description="The uploaded model as it came.")
    temperature: Section = Field(description="The uploaded model with a temperature.")
    calibrated: Section = Field(description="The model that is served.")

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__}ByModel"


class CalibrationTest(Document):
    """A test whether the confidences of a model could be right by chance."""

    statistic: Figure = Field(description="Debiased squared calibration error of the model.")
    p_value: Figure = Field(description="How often a calibrated model with its confidences reaches it by chance.")
    num_draws: int = Field(description="The number of redrawn outcomes on which it rests.")


class ConfidenceGap(Document):
    """Mean confidence beside accuracy."""

    mean_confidence: MeanConfidence
    accuracy: Accuracy
    gap: Figure = Field(description="Mean confidence minus accuracy: positive where answers are too sure.")
    standard_error: Figure = Field(
        description="By chance of the rows and, on test rows, of those that the calibrator was fitted on; a gap of two "
        "is more than chance explains."
    )
    num_rows: NumRows

    @property
    def chance(self) -> float:
        """The largest gap, either way, that chance explains."""
        return MAX_STANDARD_ERRORS * self.standard_error

    @property
    def beyond_chance(self) -> bool:
        return abs(self.gap) > self.chance


class ClassFigures(Document):
    """The figures of one class."""

    index: int = Field(description="The index of the class in the model.")
    num_rows: int = Field(description="The number of rows that are of the class.")
    num_predicted: int = Field(description="The number of rows where it is the most probable class.")
    recall: Estimate | None = Field(description="Share of its rows that are answered as it; null without rows.")
    precision: Estimate | None = Field(description="Share of the answers of the class that are right.")
    mean_confidence: float | None = Field(description="Mean confidence of the answers of the class.")
    gap: Estimate | None = Field(description="Share that is right minus mean confidence, of its answers.")
    calibration_error_l2: Estimate = Field(
        description="Debiased squared error of the class's probability, on all rows (arXiv 1909.10155)."
    )
    brier: Figure = Field(description="Mean of (p − y)²; it adds up to the Brier score over the classes.")
    p_value: float | None = Field(
        description="The p-value of the gap, if the class were calibrated; null: too few answers."
    )
    p_adjusted: float | None = Field(description="The p-value after Holm over all classes.")


class ClassRow(ClassFigures):
    """The figures of one class under its name."""

    name: str = Field(description="The class under its own name.")


class SliceRow(Document):
    """One value of one slice column: intervals are pointwise, the adjusted p-values hold for all slices together."""

    column: str = Field(description="The column that makes the slice.")
    value: str = Field(description="The value of the column in the slice.")
    num_rows: NumRows
    accuracy: Estimate = Field(description="Share of rows whose label is right.")
    mean_confidence: MeanConfidence
    gap: Estimate = Field(description="Accuracy minus mean confidence.")
    brier: Estimate = Field(description="Mean Brier score of the slice.")
    nll: Estimate = Field(description="Mean negative log-likelihood of the slice.")
    p_miscalibrated: float | None = Field(description="Adjusted p-value of the gap; null: too few rows.")
    p_worse: float | None = Field(description="Adjusted p-value of a lower accuracy than elsewhere.")


class SliceTable(Document):
    """The worst slices, worst first."""

    num_slices: int = Field(description="The number of slices that were compared.")
    correction: Correction
    skipped: tuple[str, ...] = Field(description="Columns with too many values to be slices.")
    rows: tuple[SliceRow, ...] = Field(description="The worst slices, worst first.")


class PositiveClassFigures(Document):
    """The fit of the positive class's probabilities."""

    prevalence: Figure = Field(description="Share of rows that are positive.")
    mean_probability: Figure = Field(description="Mean probability of the positive class.")
    ece: Figure = Field(description="ECE of its probability, 15 bins.")
    calibration_error_l2: Estimate | None = Field(description="Debiased squared calibration error of its probability.")
    average_precision: Estimate | None = Field(description="Average precision of ranking by its probability.")
    recall: float | None = Field(description="Share of positive rows that are answered as such.")
    precision: float | None = Field(description="Share of positive answers that are right.")


class PositiveClass(PositiveClassFigures):
    """The fit of the positive class in one model, with the calibration line where one exists."""

    slope: Estimate | None = Field(description="Slope of the calibration line; 1 is calibrated.")
    intercept: Estimate | None = Field(description="Intercept of the calibration line; 0 is calibrated.")


class CorpBand(Document):
    """The range, point by point, in which the CORP curve of a calibrated model lies."""

    confidence: Figures = Field(description="Confidences of the points, from low to high.")
    low: Figures = Field(description="The least that a calibrated model's curve would have, per point.")
    high: Figures = Field(description="The most that a calibrated model's curve would have, per point.")


class Corp(Document):
    """A reliability curve without bins (CORP), with its consistency band and the parts of the Brier score."""

    starts: Figures = Field(description="The lowest confidence of each step's rows.")
    ends: Figures = Field(description="The highest confidence of each step's rows.")
    counts: Counts = Field(description="The number of rows of each step.")
    accuracy: Figures = Field(description="Share of each step's rows that is right, from low to high.")
    miscalibration: Figure = Field(description="Brier score that the curve would save in place of the confidences.")
    discrimination: Figure = Field(description="Brier score saved against one confidence for all rows.")
    uncertainty: Figure = Field(description="Brier score of one confidence for all rows, the accuracy.")
    band: CorpBand = Field(description="The range in which a calibrated model's curve lies.")


class Reliability(Document):
    """A reliability curve in bins with its consistency band, and the one without bins."""

    edges: Figures = Field(description="The edges of the bins, one more than there are bins.")
    counts: Counts = Field(description="The number of rows in each bin.")
    mean_confidence: Figures = Field(description="Mean confidence in each bin; null where it is empty.")
    accuracy: Figures = Field(description="Share that is right in each bin; null where it is empty.")
    band_low: Figures = Field(description="The least accuracy that a calibrated model would have, per bin.")
    band_high: Figures = Field(description="The most accuracy that a calibrated model would have, per bin.")
    corp: Corp = Field(description="The curve without bins: isotonic regression of right answers on confidence.")


class SetAside(Document):
    """The point where about a fifth of the rows is set aside."""

    share: Figure = Field(description="Share of the rows with a confidence below the threshold.")
    threshold: Figure = Field(description="The confidence below which rows are set aside.")
    error_rate: Estimate = Field(description="Share of the other rows that is wrong.")


class RiskCoverage(Document):
    """A risk-coverage curve: the error rate by the share of rows that is answered, rounded to a millionth."""

    coverage: Figures = Field(description="Share of rows that is answered, per point.")
    thresholds: Figures = Field(description="The confidence from which on rows are answered, per point.")
    error_rate: Figures = Field(description="Share of the answered rows that is wrong, per point.")
    low: Figures = Field(description="Lower bound of the error rate, per point.")
    high: Figures = Field(description="Upper bound of the error rate, per point.")
    set_aside: SetAside = Field(description="The point of the curve where a fifth of the rows is set aside.")
