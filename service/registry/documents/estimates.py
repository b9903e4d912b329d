"""Estimates, as JSON: a figure with its interval, or with the range that a calibrated model would score."""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field

from service.registry.documents.base import Document

Value = TypeVar("Value")
#: A figure; null where it does not exist, since JSON has neither NaN nor infinity.
Figure = float | None
Figures = list[Figure]


class Estimate(Document):
    """A figure and its interval."""

    value: Figure
    low: Figure
    high: Figure


class BinnedEstimate(Document):
    """A binned error, and the range in which a perfectly calibrated model's would lie: the noise floor."""

    value: Figure
    floor_low: Figure
    floor_high: Figure


class Estimates(Document):
    """The metrics of one model, or of the difference between two."""

    accuracy: Estimate
    nll: Estimate
    brier: Estimate
    calibration_error_l2: Estimate
    aurc: Estimate
    augrc: Estimate
    ece: BinnedEstimate | Estimate
    adaptive_ece: BinnedEstimate | Estimate
    classwise_ece: BinnedEstimate | Estimate


class ScoreDifference(Document):
    """The mean difference of a score against another model; negative is better."""

    against: str
    value: Figure
    low: Figure
    high: Figure
    p_value: Figure


class DetectableEffect(Document):
    """The smallest gain that the test rows would show."""

    score: str
    gain: Figure
    power: float
    test_rows: int
    temperature_would_gain: Figure = Field(description="On the calibration rows.")
