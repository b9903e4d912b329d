"""Events: what has happened to a job, one by one; `type` tells which class an event is of.

A new event is a class of its data, a class that gives it a `type`, and a name in `ReportedEvent` (a worker's child
reports it) or in `JobEvent`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from fedlas.contract.base import OPEN, Document, Page, from_another_version
from fedlas.contract.profiles import Notice

#: The race's name of a candidate; a hostile child calls it nothing longer.
CandidateName = Annotated[str, Field(max_length=200, description="The name of the candidate.")]
Place = Annotated[int, Field(ge=1, description="The place of the candidate in line, counted from 1.")]
Count = Annotated[int, Field(ge=1)]
Fold = Annotated[int | None, Field(ge=1, description="The fold that is left out; null: it trains on all rows.")]
Folds = Annotated[int | None, Field(ge=1, description="The number of folds; null: none is left out.")]
TrainedScope = Annotated[
    str, Field(description="Trained weights: `all` or `head`; `none` where only a calibrator is fitted.")
]
MethodName = Annotated[str, Field(description="The method of the candidate, such as `fedlas`.")]
Epochs = Annotated[int, Field(ge=1, description="The number of epochs that the training takes.")]
Stage = Annotated[Literal["inspecting", "evaluating", "training", "calibrating", "exporting", "publishing"], OPEN]


class StatusChanged(Document):
    """The data of an event `status`."""

    status: str = Field(description="The status that the job has now.")


class StageChanged(Document):
    """The data of an event `stage`."""

    stage: Stage = Field(description="The stage that the job has reached.")


class Progress(Document):
    """The progress of a job or batch, and the data of an event `progress`."""

    fraction: float = Field(0.0, description="The share of the work that is done, from 0 to 1.")
    candidate: str | None = Field(None, description="The candidate that is trained at the moment.")
    epoch: int | None = Field(None, description="The epoch of its training, counted from 1.")
    epochs: int | None = Field(None, description="The number of epochs of its training.")
    eta_seconds: float | None = Field(
        None, description="Seconds to the end, estimated from what has been done; null where it cannot be known."
    )

    @property
    def training(self) -> str:
        """The training that runs, for people; empty where none does.

        >>> Progress(candidate="fedlas, fold 1 of 3", epoch=2, epochs=8).training
        'fedlas, fold 1 of 3, epoch 2 of 8'
        """
        return f"{self.candidate}, epoch {self.epoch} of {self.epochs}" if self.epoch else self.candidate or ""


class TrainingBegun(Document):
    """The data of an event `training`: a candidate begins to train without one fold of the rows, or on all of them."""

    candidate: CandidateName
    method: MethodName
    scope: TrainedScope
    number: Place
    candidates: Count = Field(description="The number of candidates in the race.")
    fold: Fold = None
    folds: Folds = None
    epochs: Epochs


class EpochEnded(Document):
    """The data of an event `epoch`: an epoch of such a training is over."""

    candidate: CandidateName
    number: Place
    fold: Fold = None
    folds: Folds = None
    epoch: Count = Field(description="The epoch that has ended, counted from 1.")
    epochs: Epochs
    loss: float = Field(description="Mean training loss of the epoch; each method has its own loss.")
    learning_rate: float | None = Field(None, description="Learning rate of the last step of the epoch.")
    seconds: float = Field(description="Seconds since the training began.")


class FoldScored(Document):
    """The data of an event `score`: a training without a fold is over, and this fold has scored it."""

    candidate: CandidateName
    number: Place
    fold: Count = Field(description="The fold that was left out, counted from 1.")
    folds: Count = Field(description="The number of folds of the calibration rows.")
    nll: float = Field(description="NLL of the fold's rows with a temperature; candidates are compared by it.")


class CandidateEnded(Document):
    """The data of an event `candidate`: a candidate of the race has ended."""

    name: str = Field(description="The name of the candidate.")
    method: MethodName
    scope: TrainedScope
    status: str = Field(description="`finished`, `skipped`, `eliminated`, `dropped` or `diverged`.")
    reason: str = Field(description="The reason of its status, as a sentence.")
    calibration: dict[str, float | None] | None = Field(
        description="Metric → score on the calibration rows; null: not trained to the end."
    )
    seconds: float = Field(description="Seconds that the candidate took.")


class AttemptEnded(Document):
    """The data of an event `attempt`: a process or worker was lost or handed the job back, and the job goes on."""

    reason: str = Field(description="The reason of the attempt's end, as a sentence.")


class Publication(Document):
    """The data of an event `publication`: the version that the job's model has become, or why it has become none."""

    name: str = Field(description="The published name that the job asked for.")
    version: int | None = Field(None, description="The new version of the name; null where there is none.")
    reason: str | None = Field(None, description="The reason why there is no new version; null where there is one.")


class Event(Document):
    """One line of a job's history; it is numbered when the registry stores it."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
    #: Events of one type that a job may report in all its attempts; more is dropped. A race has a thousand candidates.
    MAX_PER_JOB: ClassVar[int] = 1_100
    #: Fields of the data that identify it: an attempt that goes on repeats what an earlier one has reported.
    IDENTITY: ClassVar[tuple[str, ...]] = ()

    id: int = Field(0, description="The number of the event, growing by one within the job.")
    at: datetime = Field(default_factory=lambda: datetime.now(UTC), description="The time at which it happened.")


class StatusEvent(Event):
    """The job has another status."""

    type: Literal["status"] = Field(description="The kind of event: `status`.")
    data: StatusChanged = Field(description="The status that the job has now.")


class StageEvent(Event):
    """The job has reached another stage."""

    MAX_PER_JOB = 100
    type: Literal["stage"] = Field(description="The kind of event: `stage`.")
    data: StageChanged = Field(description="The stage that the job has reached.")


class ProgressEvent(Event):
    """The job has come further."""

    type: Literal["progress"] = Field(description="The kind of event: `progress`.")
    data: Progress = Field(description="The progress of the job at that time.")


class AttemptEvent(Event):
    """A process or worker was lost or handed the job back, and the job continues."""

    type: Literal["attempt"] = Field(description="The kind of event: `attempt`.")
    data: AttemptEnded = Field(description="The reason why the attempt has ended.")


class PublicationEvent(Event):
    """The model is a version of `publish_as` now, or there is a reason why it is none."""

    type: Literal["publication"] = Field(description="The kind of event: `publication`.")
    data: Publication = Field(description="The new version, or the reason why there is none.")


class WarningEvent(Event):
    """Something looks wrong with the model or the dataset."""

    type: Literal["warning"] = Field(description="The kind of event: `warning`.")
    data: Notice = Field(description="The finding with its evidence.")


class TrainingEvent(Event):
    """A candidate of the race begins to train."""

    MAX_PER_JOB = 5_000
    IDENTITY = ("number", "fold")
    type: Literal["training"] = Field(description="The kind of event: `training`.")
    data: TrainingBegun = Field(description="The training that begins.")


class EpochEvent(Event):
    """An epoch of a training is over."""

    MAX_PER_JOB = 5_000
    IDENTITY = ("number", "fold", "epoch")
    type: Literal["epoch"] = Field(description="The kind of event: `epoch`.")
    data: EpochEnded = Field(description="The epoch that has ended.")


class ScoreEvent(Event):
    """A fold of the calibration rows has scored a training without it."""

    MAX_PER_JOB = 5_000
    IDENTITY = ("number", "fold")
    type: Literal["score"] = Field(description="The kind of event: `score`.")
    data: FoldScored = Field(description="The score that the fold has given.")


class CandidateEvent(Event):
    """A candidate of the race has ended."""

    type: Literal["candidate"] = Field(description="The kind of event: `candidate`.")
    data: CandidateEnded = Field(description="The candidate that has ended.")


class UnknownEvent(Event):
    """An event that a newer server knows; `raw` is all of it."""

    type: str
    content: dict[str, Any]

    @property
    def raw(self) -> dict[str, Any]:
        """The JSON that this came from."""
        return self.content


def _known_or_unknown(content: Any, known: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    try:
        return known(content)
    except ValidationError:
        if not from_another_version(info) or not isinstance(content, dict) or "type" not in content:
            raise
        return UnknownEvent.model_validate({**{key: content[key] for key in ("id", "at", "type")}, "content": content})


_Reported: TypeAlias = WarningEvent | TrainingEvent | EpochEvent | ScoreEvent | CandidateEvent
#: An event that the sandboxed child of a job reports.
ReportedEvent: TypeAlias = Annotated[_Reported, Field(discriminator="type")]
#: An event of a job.
JobEvent: TypeAlias = Annotated[
    StatusEvent | StageEvent | ProgressEvent | AttemptEvent | PublicationEvent | _Reported,
    Field(discriminator="type"),
    WrapValidator(_known_or_unknown),
]


class EventList(Page[JobEvent]):
    """One page of a job's events, newest first."""


JOB_EVENT: TypeAdapter[JobEvent] = TypeAdapter(JobEvent, config=ConfigDict(defer_build=True))
