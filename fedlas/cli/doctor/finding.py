"""A finding: one line of `fedlas doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

#: `skip` is neither good nor bad: it is not installed, or not in use here.
Status: TypeAlias = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        topic: the heading that it belongs to.
        name: the thing.
        found: a phrase about it.
        remedy: what to do about it; empty where there is nothing to do.
    """

    topic: str
    name: str
    status: Status
    found: str
    remedy: str = ""

    def record(self) -> dict[str, str]:
        """The finding as JSON."""
        return asdict(self)

    @classmethod
    def read(cls, topic: str, record: Mapping[str, object]) -> Finding:
        """Read what a check's process wrote, which other distributions may have written."""
        asked = record.get("status")
        status: Status = next((known for known in get_args(Status) if known == asked), "warn")
        name, found, remedy = (" ".join(str(record.get(key, "")).split()) for key in ("name", "found", "remedy"))
        return cls(topic, name, status, found, remedy)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where nothing fails, else 1."""
    return int(any(finding.status == "fail" for finding in findings))
