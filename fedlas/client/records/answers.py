"""Answers to rows, one by one."""

from __future__ import annotations

from fedlas.client.records.base import Document


class RankedLabel(Document):
    """One of the `top_k` classes."""

    label: str
    index: int
    confidence: float


class Prediction(Document):
    """The answer for one row."""

    label: str
    index: int
    confidence: float
    """Calibrated probability that the label is right."""
    abstain: bool
    """The confidence is below what `abstain_below` or `max_error` asks for."""
    uncalibrated_confidence: float
    """What the network, of an average its first member, says without a calibrator."""
    id: str | int | float | None = None
    """Batches: its name, where the dataset has the role `id`."""
    decision: str | None = None
    """With `decision`: the class to act on."""
    familiarity: float | None = None
    """Calibrated models: share of the calibration rows that were at least as strange; small is far."""
    prediction_set: list[str] | None = None
    """With `coverage`; the most probable class first."""
    probabilities: list[float] | None = None
    """With `probabilities`: of all classes, calibrated, in the order of `class_names`."""
    probability: float | None = None
    """Binary models: of the positive class."""
    row: int | None = None
    """Batches: the row in the dataset."""
    top_k: list[RankedLabel] | None = None


class RowError(Document):
    """Why a row has no answer."""

    code: str
    message: str


class RowFailure(Document):
    """A row of a batch that could not be answered, with `errors: "column"`."""

    error: RowError
    row: int
    id: str | int | float | None = None


class JudgedRow(Document):
    """A test row of a job, with what the served model answers."""

    label: str
    """The class that the dataset says it has."""
    probabilities: list[float]
    """The calibrated probability of each class, in the order of `class_names`."""
    row: int
    """In the dataset."""
    id: str | int | float | None = None
    """Its name, where the dataset has the role `id`."""


class JudgedRows(Document):
    """One page of a job's test rows, in the dataset's order."""

    class_names: list[str]
    """The classes, in the order of `probabilities`."""
    data: list[JudgedRow]
    has_more: bool


class ServedModel(Document):
    """Which model answered."""

    id: str
    name: str
    version: int
    calibrated: bool
