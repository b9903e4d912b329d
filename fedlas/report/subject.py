"""The subject of a report: which model it is about, on which dataset it was judged, by which job, and of when it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Named:
    """A model or dataset, as far as it has a name, an id, or a file whose digest is known."""

    name: str | None = None
    id: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Subject:
    """What a report is about; a field is None where there is no such thing, as of a job in a notebook.

    Attributes:
        created_at: when it was ordered (RFC 3339, UTC), never when it was written: a job that is repeated ends with
            the same bytes.
    """

    model: Named | None = None
    dataset: Named | None = None
    job_id: str | None = None
    created_at: str | None = None

    @property
    def title(self) -> str | None:
        """What a heading calls it."""
        one = self.model or self.dataset
        return None if one is None else one.name or one.id


def rfc3339(at: datetime | None) -> str | None:
    """A moment to the second, as a document has it."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def moment(created_at: str) -> str:
    """A moment as a reader has it.

    >>> moment("2026-07-05T09:03:01Z")
    '5 July 2026, 09:03 UTC'
    """
    at = datetime.fromisoformat(created_at)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"
