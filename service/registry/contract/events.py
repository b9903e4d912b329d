"""Events: what happened to a job, one record for each type of event."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel

from service.registry.documents import (
    CandidateEnded,
    EpochEnded,
    FoldScored,
    Notice,
    Progress,
    Publication,
    StageChanged,
    TrainingBegun,
)
from service.registry.documents.events import AttemptEnded, StatusChanged


class _Event(BaseModel):
    """One line of what happened to a job."""

    id: int = Field(description="Grows by one within the job.")
    at: datetime = Field(description="When it happened.")


class StatusEvent(_Event):
    """The job has another status."""

    type: Literal["status"] = Field(description="Of this event.")
    data: StatusChanged = Field(description="The status.")


class StageEvent(_Event):
    """The job has come to another stage."""

    type: Literal["stage"] = Field(description="Of this event.")
    data: StageChanged = Field(description="The stage.")


class ProgressEvent(_Event):
    """The job has come further."""

    type: Literal["progress"] = Field(description="Of this event.")
    data: Progress = Field(description="How far it is.")


class WarningEvent(_Event):
    """Something looks wrong with model or dataset."""

    type: Literal["warning"] = Field(description="Of this event.")
    data: Notice = Field(description="What was found.")


class TrainingEvent(_Event):
    """A candidate of the race begins to train: without one fold of the calibration rows, or on all rows."""

    type: Literal["training"] = Field(description="Of this event.")
    data: TrainingBegun = Field(description="The training.")


class EpochEvent(_Event):
    """An epoch of a training is over."""

    type: Literal["epoch"] = Field(description="Of this event.")
    data: EpochEnded = Field(description="The epoch.")


class ScoreEvent(_Event):
    """A training without a fold of the calibration rows is over, and that fold has scored it."""

    type: Literal["score"] = Field(description="Of this event.")
    data: FoldScored = Field(description="The score.")


class CandidateEvent(_Event):
    """A candidate of the race has ended."""

    type: Literal["candidate"] = Field(description="Of this event.")
    data: CandidateEnded = Field(description="The candidate.")


class AttemptEvent(_Event):
    """A process or worker was lost or handed the job back, and the job continues."""

    type: Literal["attempt"] = Field(description="Of this event.")
    data: AttemptEnded = Field(description="Why.")


class PublicationEvent(_Event):
    """The model is a version of `publish_as` now, or the reason why it is none."""

    type: Literal["publication"] = Field(description="Of this event.")
    data: Publication = Field(description="The version, or the reason.")


Event = (
    StatusEvent
    | StageEvent
    | ProgressEvent
    | WarningEvent
    | TrainingEvent
    | EpochEvent
    | ScoreEvent
    | CandidateEvent
    | AttemptEvent
    | PublicationEvent
)


class EventRecord(RootModel[Annotated[Event, Field(discriminator="type")]]):
    """One line of what happened to a job; its `type` says what its `data` is."""
