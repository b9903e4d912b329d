"""The data of a job's events: what each type of event says."""

from __future__ import annotations

from typing import Literal

from service.registry.documents.base import Document

Stage = Literal["inspecting", "evaluating", "training", "calibrating", "exporting", "publishing"]


class Progress(Document):
    """The progress of a job; `eta_seconds` is an estimate from measured epochs, or null."""

    fraction: float = 0.0
    candidate: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    eta_seconds: float | None = None


class StatusChanged(Document):
    """Type `status`."""

    status: str


class StageChanged(Document):
    """Type `stage`."""

    stage: Stage


class CandidateEnded(Document):
    """Type `candidate`: one candidate of the race has ended."""

    name: str
    method: str
    scope: str
    status: str
    reason: str
    calibration: dict[str, float | None] | None
    seconds: float


class AttemptEnded(Document):
    """Type `attempt`: a process or worker was lost or handed the job back, and it goes on."""

    reason: str


class Publication(Document):
    """Type `publication`: the version of a name that the job's model has become, or why it has become none."""

    name: str
    version: int | None = None
    reason: str | None = None
