"""What was found, as a table for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.weight.cost import Cost
from benchmarks.weight.requests import MIB
from benchmarks.weight.space import Point

_SHOWN = 220


@dataclass(frozen=True)
class Finding:
    """The most expensive request of a family, and what it cost when it was repeated on a fresh API."""

    family: str
    point: Point
    request: str
    cost: Cost
    trials: int = 0

    def as_json(self) -> dict[str, Any]:
        """Everything of it."""
        return {
            "family": self.family,
            "point": self.point.values,
            "request": self.request,
            "cost": asdict(self.cost),
            "misses": self.cost.misses,
            "trials": self.trials,
        }


def table(findings: Sequence[Finding]) -> str:
    """Markdown, the worst first."""
    lines = [
        "| family: parameters | standstill | answer | processor | status | peak | kept | files | sent / received |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(found) for found in findings]
    return "\n".join(lines)


def _line(found: Finding) -> str:
    cost = found.cost
    held = f", {cost.open:,} connections held" if cost.open else ""
    status = cost.end or f"{cost.status or '–'}{held}"
    memory = " | ".join(f"{count / MIB:,.0f} MiB" for count in (cost.peak, cost.kept, cost.disk))
    times = f"{cost.standstill:.2f} s | {cost.seconds:.2f} s | {cost.processor:.2f} s"
    moved = f"{_size(cost.sent)} / {_size(cost.received)}"
    return f"| {found.family}: {found.point} | {times} | {status} | {memory} | {moved} |"


def shortened(request: str) -> str:
    """A request as one line that is not too long."""
    return request if len(request) <= 2 * _SHOWN else f"{request[:_SHOWN]} … {request[-_SHOWN:]}"


def write(path: Path, findings: Sequence[Finding], **about: Any) -> None:
    """All findings, as JSON."""
    content = {**about, "findings": [found.as_json() for found in findings]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count} B"
    return f"{count / 1024:,.1f} KiB" if count < MIB else f"{count / MIB:,.1f} MiB"
