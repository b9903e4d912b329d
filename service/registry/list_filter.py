"""The filter of a list: what its records must have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Conditions that all hold; what is None, and an empty `metadata`, is no condition.

    Attributes:
        name: of the record itself; a job, or a batch, is found by the names of its model, too.
        created_after, created_before: neither includes the moment itself.
        metadata: of jobs: words that are all among theirs.
        origin: of models.
    """

    status: str | None = None
    name: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
