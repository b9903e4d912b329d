"""Replies: what a child that has asked for a training or a shard is told, one JSON line on its standard input."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from service.registry.documents import Document
from worker.documents.events import EntryFile, EntryName
from worker.documents.orders import RowRange, TrainingOrder

#: Files by the names of their entries; they lie in the child's journal folder.
Entries = dict[EntryName, EntryFile]


class TrainReply(Document):
    """Do this training, keep its outcome as the journal's entry `name`, and ask again.

    Attributes:
        entries: `running`, where an earlier attempt at this training has got somewhere.
    """

    do: Literal["train"] = "train"
    name: EntryName
    order: TrainingOrder
    entries: Entries = Field(default_factory=dict)


class GoOnReply(Document):
    """All offered trainings have ended; `entries` are the outcomes of those that others have done."""

    do: Literal["go_on"] = "go_on"
    entries: Entries = Field(default_factory=dict)


class PredictReply(Document):
    """Predict these rows next, leave them as a part, and ask again."""

    do: Literal["predict"] = "predict"
    shard: RowRange


class EndReply(Document):
    """There is nothing left for this child: it answers and ends."""

    do: Literal["end"] = "end"


AnyReply: TypeAlias = TrainReply | GoOnReply | PredictReply | EndReply
Reply = Annotated[AnyReply, Field(discriminator="do")]


def read_reply(line: bytes) -> AnyReply:
    """The reply in a line.

    >>> read_reply(b'{"do": "go_on", "entries": {"candidate-01-10-fold-1": "theirs-1.pt"}}').entries
    {'candidate-01-10-fold-1': 'theirs-1.pt'}
    """
    return _REPLY.validate_json(line)


_REPLY: TypeAdapter[AnyReply] = TypeAdapter(Reply)
