"""Run limits of one model: how large a batch may be, and whether it may run on the event loop.

They are read from the profile's `cost`. Inspection has computed which sizes of the served graph follow from shapes
alone, and has run it on zeros, random and extreme values up to a largest batch; serving stays within a small multiple.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: A batch is at most so many times as large as the largest measured one: beyond that its cost is unknown.
_BEYOND_MEASURED = 4


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The measurements of inspection.

    Attributes:
        sizes_follow_shapes: no value of a row decides how much is computed.
        power: cost grows with the length of a row to this power (1.0 where no dimension of a row is free).
        rows, length: the largest batch that was measured, and the longest free dimension of its rows; infinite rows
            where nothing was measured.
        row_bytes: the most bytes that are alive at once, for each row of that length.
    """

    sizes_follow_shapes: bool = False
    power: float = 1.0
    rows: float = math.inf
    length: int = 1
    row_bytes: int = 0

    @classmethod
    def of(cls, profile: Mapping[str, Any]) -> RunLimits:
        """Read the profile of a record; profiles of earlier versions have no cost."""
        cost = profile.get("cost")
        if cost is None:
            return UNKNOWN
        measured = cost.get("measured") or {}
        return cls(
            sizes_follow_shapes=cost.get("sizes") == "shapes",
            power=max([1.0, *map(float, (cost.get("powers") or {}).values())]),
            rows=measured.get("rows", math.inf),
            length=max(1, measured.get("length", 1)),
            row_bytes=int(cost.get("peak_row_bytes") or 0),
        )

    def weight(self, length: int) -> float:
        """The cost of a row of this length, in rows of length one."""
        return 1.0 if length <= 1 else float(length) ** self.power

    def most_rows(self, length: int, *, most_bytes: int) -> int:
        """Rows of this length in one batch; zero where a single row is longer than anything that was tried."""
        if math.isinf(self.rows):
            return 2**31
        share = self.weight(self.length) / self.weight(length)
        rows = int(_BEYOND_MEASURED * self.rows * share)
        if rows and self.row_bytes:
            rows = max(1, min(rows, int(most_bytes * share / self.row_bytes)))
        return rows

    def longest(self) -> int:
        """The longest row that may be run alone."""
        return int(self.length * (_BEYOND_MEASURED * self.rows) ** (1 / self.power))


#: Of a model without measurements: it never runs on the event loop, and has only the usual limits.
UNKNOWN = RunLimits()
