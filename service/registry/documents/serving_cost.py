"""The serving cost: what rows of a served graph take, as inspection counted and measured it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.registry.documents.base import Document


class SizeBound(Document):
    """A size that depends on values, and the largest that it may be."""

    tensor: str
    limit: int


class MeasuredBatch(Document):
    """The largest batch that inspection ran."""

    rows: int
    length: int = Field(description="The longest free dimension of each row; 1 where none is free.")
    seconds: float = Field(description="Of the slowest kind of values.")
    values: str = Field(description="That kind.")


class ServingCost(Document):
    """What rows of a served graph cost: computed from sizes, and measured once."""

    sizes: Literal["shapes", "bounded", "unknown"] = Field(
        description="`shapes`: all sizes follow from shapes; `bounded`: some depend on values and have a bound."
    )
    bounds: list[SizeBound] = Field(default_factory=list)
    fixed_bytes: int = 0
    row_bytes: int = 0
    peak_row_bytes: int = Field(0, description="The most bytes that are alive at once, for each further row.")
    powers: dict[str, float] = Field(
        default_factory=dict, description="Free dimension → the power with which the largest tensor grows with it."
    )
    measured: MeasuredBatch | None = None
