"""Events: what happened to a job, one by one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, cast

from pydantic import JsonValue, ValidationError, ValidationInfo, field_validator

from fedlas.client.records.base import Document
from fedlas.client.records.parts import Notice, Progress

Stage = Literal["inspecting", "evaluating", "training", "calibrating", "exporting", "publishing"] | str


class StatusChanged(Document):
    """Type `status`."""

    status: str


class StageChanged(Document):
    """Type `stage`."""

    stage: Stage


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
    type: Literal["status", "stage", "progress", "warning", "candidate", "attempt", "publication"] | str
    """`warning`: something looks wrong with model or dataset; `attempt`: a process or worker was lost or handed the
    job back, and the job continues; `publication`: the model is a version of `publish_as` now, or the reason why it
    is none."""
    at: datetime
    data: EventData

    @field_validator("data", mode="plain")
    @classmethod
    def _by_type(cls, data: Any, info: ValidationInfo) -> EventData:
        """As the type says; what this client does not know stays as it came."""
        known = _TYPES.get(info.data.get("type", ""))
        if known is None or not isinstance(data, dict):
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
    "candidate": CandidateEnded,
    "attempt": AttemptEnded,
    "publication": Publication,
}
