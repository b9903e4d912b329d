"""A promise as the table shows it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Line:
    """One promise: how often it was looked at, and what breaks it."""

    promise: str
    looked_at: int
    broken: list[str] = field(default_factory=list)
