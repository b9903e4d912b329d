"""What happened to a job, as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import JsonValue

from fedlas.report.wording import as_sentence
from service.registry import tables
from service.web.job_words import STAGES

#: The job's progress says it better, and there are too many of them.
LEFT_OUT = frozenset({"progress", "epoch"})

_STATUSES = {
    "queued": "It waits for a worker.",
    "running": "A worker has begun.",
    "cancelling": "It is asked to stop; its worker does so with its next heartbeat.",
    "succeeded": "It has succeeded.",
    "failed": "It has failed.",
    "cancelled": "It was cancelled.",
}
_STAGES: dict[str, str] = {one.stage: f"{one.title}: {one.happens}." for one in STAGES}


class ToldEvent(NamedTuple):
    """An event for people; `tone` is `plain`, `warning` (it looks wrong) or `lost` (a process was lost)."""

    number: int
    at: datetime
    sentence: str
    tone: str


def told(rows: Iterable[tables.Event]) -> list[ToldEvent]:
    """The events of a job that are worth a line, in the order of the rows."""
    return [
        ToldEvent(row.number, row.at, _sentence(row.type, row.data), _TONES.get(row.type, "plain"))
        for row in rows
        if row.type not in LEFT_OUT
    ]


_TONES = {"warning": "warning", "attempt": "lost"}


def _sentence(type_: str, data: Mapping[str, JsonValue]) -> str:
    """One event; what a later release tells is named by its type.

    >>> _sentence("attempt", {"reason": "its worker went silent"})
    'Its process was lost: its worker went silent. It goes on where it was, as soon as a worker is free.'
    """
    match type_, data:
        case "status", {"status": str(status)}:
            return _STATUSES.get(status, f"It is {status}.")
        case "stage", {"stage": str(stage)}:
            return _STAGES.get(stage, f"It has come to the stage {stage}.")
        case "warning", {"message": str(message)}:
            return as_sentence(message)
        case "attempt", {"reason": str(reason)}:
            return f"Its process was lost: {reason}. It goes on where it was, as soon as a worker is free."
        case "training", {"candidate": str(candidate), "epochs": epochs, **more}:
            return f"{candidate} begins to train {_rows(more)}, {epochs} epochs."
        case "score", {"candidate": str(candidate), "nll": float(nll), **more}:
            return f"{candidate} is scored {_rows(more)}: NLL {nll:.4f}."
        case "candidate", {"name": str(name), "status": str(status)}:
            return _candidate_sentence(name, status, data)
        case "publication", {"name": str(name)}:
            if version := data.get("version"):
                return f"It is version {version} of “{name}”."
            return f"It is no version of “{name}”: {data.get('reason')}."
    return f"{type_}."


def _rows(data: Mapping[str, JsonValue]) -> str:
    fold, folds = data.get("fold"), data.get("folds")
    return "on all rows" if fold is None else f"without fold {fold} of {folds}"


def _candidate_sentence(name: str, status: str, data: Mapping[str, JsonValue]) -> str:
    has = {"finished": "has finished", "diverged": "has diverged"}.get(status, f"was {status}")
    why = f": {data['reason']}" if data.get("reason") else ""
    match data.get("calibration"):
        case {"nll": float(nll)}:
            return f"{name} {has}{why}; its cross-fitted NLL, over all folds together, is {nll:.4f}."
    return f"{name} {has}{why}."
