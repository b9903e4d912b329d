"""Events: what happened to a job, one by one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, cast

from pydantic import JsonValue, ValidationError, ValidationInfo, field_validator

from fedlas.client.records.parts import Document, Notice, Progress

Stage = Literal["inspecting", "evaluating", "training", "calibrating", "exporting", "publishing"] | str


class StatusChanged(Document):
    """Type `status`."""

    status: str


class StageChanged(Document):
    """Type `stage`."""

    stage: Stage


class TrainingBegun(Document):
    """Type `training`: a candidate of the race begins to train, without one fold of the rows or on all of them."""

    candidate: str
    number: int
    """Place of the candidate in line, from 1; there are so many `candidates`."""
    candidates: int
    epochs: int
    method: str
    scope: str
    fold: int | None = None
    """Fold of the calibration rows, left out of so many `folds`; null: trained on all rows."""
    folds: int | None = None


class EpochEnded(Document):
    """Type `epoch`: an epoch of such a training is over."""

    candidate: str
    number: int
    epoch: int
    epochs: int
    loss: float
    """Loss of the candidate's own kind, over the rows it trains on."""
    seconds: float
    fold: int | None = None
    folds: int | None = None
    learning_rate: float | None = None


class FoldScored(Document):
    """Type `score`: the NLL of rows that a training left out, with a temperature; candidates compare by it."""

    candidate: str
    number: int
    fold: int
    folds: int
    nll: float


class CandidateEnded(Document):
    """Type `candidate`: one candidate of the race has ended."""

    name: str
    status: str
    calibration: dict[str, float | None] | None = None
    method: str
    reason: str
    scope: str
    seconds: float


class AttemptEnded(Document):
    """Type `attempt`: a process or worker was lost or handed the job back, and it goes on."""

    reason: str


class Publication(Document):
    """Type `publication`: the version of a name that the job's model has become, or why it has become none."""

    name: str
    version: int | None = None
    reason: str | None = None


EventData = (
    StatusChanged
    | StageChanged
    | TrainingBegun
    | EpochEnded
    | FoldScored
    | CandidateEnded
    | AttemptEnded
    | Publication
    | Notice
    | Progress
    | dict[str, JsonValue]
)


class Event(Document):
    """One line of what happened to a job; ids grow by one within it."""

    id: int
    type: (
        Literal[
            "status",
            "stage",
            "progress",
            "warning",
            "training",
            "epoch",
            "score",
            "candidate",
            "attempt",
            "publication",
        ]
        | str
    )
    """`warning`: something looks wrong with model or dataset; `training`, `epoch`, `score`: the race, as it runs;
    `candidate`: one of them has ended; `attempt`: a process or worker was lost or handed the job back, and the job
    continues; `publication`: the model is a version of `publish_as` now, or the reason why it is none."""
    at: datetime
    data: EventData

    @field_validator("data", mode="plain")
    @classmethod
    def _by_type(cls, data: Any, info: ValidationInfo) -> EventData:
        """Parse by the type; what this client does not know stays as it came."""
        if (known := _TYPES.get(info.data.get("type", ""))) is None or not isinstance(data, dict):
            return cast("EventData", data)
        try:
            return cast("EventData", known.model_validate(data))
        except ValidationError:
            return data


_TYPES: dict[str, type[Document]] = {
    "status": StatusChanged,
    "stage": StageChanged,
    "progress": Progress,
    "warning": Notice,
    "training": TrainingBegun,
    "epoch": EpochEnded,
    "score": FoldScored,
    "candidate": CandidateEnded,
    "attempt": AttemptEnded,
    "publication": Publication,
}
