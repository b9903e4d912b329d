"""The documents between control, serving processes, acceptor and their parent, each validated where it arrives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_TEXT = 1000
Text = Annotated[str, Field(max_length=MOST_TEXT)]
#: Of a process: it names a folder, too.
ProcessName = Annotated[str, Field(pattern=r"^(control|acceptor|(serving|alone)-[1-9][0-9]{0,3})$")]
#: Of a served copy.
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: Numbers the questions of one process.
Number = Annotated[int, Field(ge=0, lt=2**53)]


class Document(BaseModel):
    """Unknown fields are refused: they would be those of another release."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Connection(Document):
    """A client's connection, as the file; the content is what was read of it already."""

    kind: Literal["connection"] = "connection"


class Fault(Document):
    """The end of a process that models may have brought about: the one that did, where it is certain, or suspects."""

    how: Text
    models: Annotated[list[Digest], Field(max_length=64)]
    certain: bool


class Peer(Document):
    """The other end of a channel to a new process, as the file; it takes the place of the one of that name before.

    `start` numbers the processes that the parent has started; `fault` is what the one before has ended by.
    """

    kind: Literal["peer"] = "peer"
    name: ProcessName
    pid: Number
    start: Number
    fault: Fault | None = None


class Gone(Document):
    """A process that will not come back."""

    kind: Literal["gone"] = "gone"
    name: ProcessName


class Places(Document):
    """The models that have a process to themselves: what they are called → name of the process."""

    kind: Literal["places"] = "places"
    alone: dict[Text, ProcessName] = {}


class Wanted(Document):
    """The processes of single models that the parent is to run, all of them."""

    kind: Literal["wanted"] = "wanted"
    alone: Annotated[frozenset[ProcessName], Field(max_length=100)] = frozenset()


class End(Document):
    """The parent is to end this process, if it still runs, and to start it again."""

    kind: Literal["end"] = "end"
    name: ProcessName
    pid: Number
    reason: Text


class ModelQuestion(Document):
    """Which model a name or id means; `known` is the id of the model whose profile is at hand."""

    kind: Literal["model"] = "model"
    number: Number
    called: Text
    version: Text | None = None
    known: Text | None = None


class KeyQuestion(Document):
    """Whether the holder of this `Authorization` is admitted."""

    kind: Literal["key"] = "key"
    number: Number
    authorization: Annotated[str, Field(max_length=70_000)]


class Counted(Document):
    """What this process has counted, as the content."""

    kind: Literal["counted"] = "counted"


class Spans(Document):
    """Spans that have ended, as the content: an OTLP request."""

    kind: Literal["spans"] = "spans"


class Stuck(Document):
    """A run of this served copy did not end when its time was up: the process ends."""

    kind: Literal["stuck"] = "stuck"
    digest: Digest


class Leaving(Document):
    """This process stops: it answers the connections that it has, and takes no more."""

    kind: Literal["leaving"] = "leaving"


class ModelAnswer(Document):
    """The model that a name means; the content is its profile, or nothing where that is known."""

    kind: Literal["model_answer"] = "model_answer"
    number: Number
    version: str
    model_id: str
    digest: str
    served: str
    priors: dict[str, float] | None = None


class Refusal(Document):
    """An error of the registry's family in place of an answer."""

    kind: Literal["refusal"] = "refusal"
    number: Number
    error: str
    code: str
    message: str
    field: str | None = None
    passing: bool = False


class KeyAnswer(Document):
    """Whether a key is admitted, and for how long that may be remembered."""

    kind: Literal["key_answer"] = "key_answer"
    number: Number
    admitted: bool


class Forget(Document):
    """Ask again before the next answer: everything, or one name."""

    kind: Literal["forget"] = "forget"
    number: Number
    called: str | None = None


class Open(Document):
    """Open the model behind this name or id; `ahead` of its requests, so that it may be closed before they come."""

    kind: Literal["open"] = "open"
    number: Number
    called: str
    version: str | None = None
    ahead: bool = False


class Drop(Document):
    """Close the models of a name or id that is out of service."""

    kind: Literal["drop"] = "drop"
    number: Number
    called: str


class Count(Document):
    """Send what was counted: it is about to be shown."""

    kind: Literal["count"] = "count"
    number: Number


class Done(Document):
    """What was asked for is done."""

    kind: Literal["done"] = "done"
    number: Number


class Hello(Document):
    """A process of this release, which answers predictions from now on, and what its models run on."""

    kind: Literal["hello"] = "hello"
    release: Text
    provider: Text


ToControl = Annotated[
    Connection | Hello | ModelQuestion | KeyQuestion | Done | Refusal | Counted | Spans | Stuck | Leaving | Peer | Gone,
    Field(discriminator="kind"),
]
ToServing = Annotated[
    Connection | ModelAnswer | Refusal | KeyAnswer | Forget | Open | Drop | Count | Places, Field(discriminator="kind")
]
ToAcceptor = Annotated[Connection | Peer | Gone | Places, Field(discriminator="kind")]
ToParent = Annotated[Wanted | End, Field(discriminator="kind")]
#: What answers a question: it has the number of it.
Answer = ModelAnswer | Refusal | KeyAnswer | Done
