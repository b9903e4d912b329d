"""Events: what a child reports while it works. An event that is not what it seems is dropped as a whole.

A child leaves out what it has not set, so the field that tells one event from another has no default.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.registry.documents import (
    CandidateEnded,
    EpochEnded,
    FoldScored,
    Notice,
    Progress,
    Stage,
    StageChanged,
    TrainingBegun,
)

_MOST_BYTES = 16 * 1024
#: An entry of a journal, and its file in the journal's folder.
EntryName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
EntryFile = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,79}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class ReportedProgress(Progress):
    """Progress in which every number is one."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class StageEvent(_Part):
    """The beginning of a stage, which a line tells in a field of its own."""

    type: Literal["stage"]
    data: StageChanged


class TrainingEvent(_Part):
    """The beginning of a candidate's training."""

    type: Literal["training"]
    data: TrainingBegun


class EpochEvent(_Part):
    """The end of one epoch of it."""

    type: Literal["epoch"]
    data: EpochEnded


class ScoreEvent(_Part):
    """The score of a training on the fold that it left out."""

    type: Literal["score"]
    data: FoldScored


class CandidateEvent(_Part):
    """The end of one candidate of the race."""

    type: Literal["candidate"]
    data: CandidateEnded


class WarningEvent(_Part):
    """Something that looks wrong with model or dataset."""

    type: Literal["warning"]
    data: Notice


#: Events that stand in a line as such.
InnerEvent = Annotated[
    TrainingEvent | EpochEvent | ScoreEvent | CandidateEvent | WarningEvent, Field(discriminator="type")
]


class SavedCheckpoint(_Part):
    """An entry of the child's journal: its name, and its file in the journal's folder."""

    name: EntryName
    file: EntryFile


class PredictedPart(_Part):
    """The part of a batch that a saved file is; errors are counted where they are allowed."""

    num_rows: int = Field(ge=1)
    num_errors: int | None = Field(None, ge=0)


class ChildEvent(_Part):
    """One line of a child's events.

    Attributes:
        part: what the checkpoint is, of a batch.
        asks: for a shard; the child waits until a reply comes (`worker.documents.orders`).
    """

    stage: Stage | None = None
    progress: ReportedProgress | None = None
    event: InnerEvent | None = None
    checkpoint: SavedCheckpoint | None = None
    part: PredictedPart | None = None
    asks: Literal["shard"] | None = None

    @classmethod
    def parse(cls, told: object) -> ChildEvent | None:
        """The event, or None where the child told of none: others will read it in records.

        >>> ChildEvent.parse({"progress": {"fraction": 0.5, "candidate": "fedlas"}}).progress.fraction
        0.5
        >>> ChildEvent.parse({"progress": {"fraction": float("nan")}}) is ChildEvent.parse({"stage": "x"}) is None
        True
        """
        try:
            if len(json.dumps(told, ensure_ascii=False, allow_nan=False).encode()) > _MOST_BYTES:
                return None
            return cls.model_validate(told)
        except (ValueError, TypeError, RecursionError):  # half a surrogate pair is no text, either
            return None
