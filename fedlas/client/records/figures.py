"""Figures of a report: metrics with their intervals, by model, by class and by slice."""

from __future__ import annotations

from typing import Generic, TypeVar

from fedlas.client.records.base import Document


class Estimate(Document):
    """A figure and its interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


Section = TypeVar("Section", bound=Document)


class ByModel(Document, Generic[Section]):
    """The same section for the uploaded model, for it with a temperature, and for the model that is served."""

    uploaded: Section
    temperature: Section
    calibrated: Section


class BinnedEstimate(Estimate):
    """A binned error beside the range it takes for a calibrated model with the same probabilities.

    Of a difference between two models it is an interval like any other.
    """

    floor_low: float | None = None
    floor_high: float | None = None


class Estimates(Document):
    """The metrics of one model, or of the difference between two."""

    accuracy: Estimate
    adaptive_ece: BinnedEstimate
    augrc: Estimate
    aurc: Estimate
    brier: Estimate
    calibration_error_l2: Estimate
    classwise_ece: BinnedEstimate
    ece: BinnedEstimate
    nll: Estimate


class Differences(Document):
    """Metrics of the served model minus those of another, paired by row."""

    calibrated_minus_temperature: Estimates
    calibrated_minus_uploaded: Estimates
