"""The data of a job's events: what each type of event says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.registry.json_models import Document

#: As the race calls a candidate; a hostile child calls it nothing longer.
CandidateName = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=1)]
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


class TrainingBegun(Document):
    """Type `training`: a candidate of the race begins to train, without one fold of the rows or on all of them."""

    candidate: CandidateName
    method: str
    scope: str
    number: Count
    candidates: Count
    fold: Count | None = None
    folds: Count | None = None
    epochs: Count


class EpochEnded(Document):
    """Type `epoch`: an epoch of such a training is over; its loss is the candidate's own."""

    candidate: CandidateName
    number: Count
    fold: Count | None = None
    folds: Count | None = None
    epoch: Count
    epochs: Count
    loss: float
    learning_rate: float | None = None
    seconds: float


class FoldScored(Document):
    """Type `score`: the NLL of rows that a training left out, with a temperature; candidates compare by it."""

    candidate: CandidateName
    number: Count
    fold: Count
    folds: Count
    nll: float


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
