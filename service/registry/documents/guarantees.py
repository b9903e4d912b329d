"""Guarantees, as JSON: the error bounds and score quantiles from which `max_error` and `coverage` are answered.

`fedlas.guarantees.Guarantees` computes them, writes this form with `as_dict`, and reads it with `from_dict`.
"""

from __future__ import annotations

from pydantic import Field

from service.registry.documents.base import Document


class ScoreQuantiles(Document):
    """Scores at some ranks of the guarantee rows."""

    num_rows: int
    room: int = Field(description="How many rows one new group may have; 1 without groups.")
    ranks: list[int]
    scores: list[float]


class GuaranteesSummary(Document):
    """What a model's record shows of its guarantees; the tables grow with the classes."""

    num_rows: int | None = Field(None, description="How many guarantee rows there were.")
    num_groups: int | None = Field(None, description="Of how many independent groups, if rows had groups.")
    delta: float | None = Field(None, description="The probability with which a promise may fail.")


class Guarantees(Document):
    """All that the guarantee rows allow to promise."""

    class_names: list[str]
    num_rows: int
    num_groups: int | None
    delta: float
    thresholds: list[float] = Field(description="Confidences (M,), ascending; the lowest answers everything.")
    bounds: list[float] = Field(description="Upper bounds (M,) of the error rate at or above each threshold.")
    class_bounds: list[list[float]] = Field(description="The same for each true class, (K, M).")
    quantiles: ScoreQuantiles
    class_quantiles: list[ScoreQuantiles]
