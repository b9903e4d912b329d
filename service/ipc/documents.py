"""The documents between control, serving processes, acceptor and their parent, and where requests go.

Each document is validated where it arrives. Predictions go to the serving processes, everything else to control.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Generic, Literal, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field

from service.registry import errors

MAX_TEXT = 1000
#: Served copies that a process may want: a client may make up any number of ids.
WANTED_PER_S = 100
MAX_WANTED = 500
Text = Annotated[str, Field(max_length=MAX_TEXT)]
#: The name of a process; it names a folder, too.
ProcessName = Annotated[str, Field(pattern=r"^(control|acceptor|serving-[1-9][0-9]{0,3})$")]
#: The digest of a served copy.
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ModelId = Annotated[str, Field(pattern=r"^mdl_[0-9a-z]{26}$")]
#: Numbers the questions of control.
Number = Annotated[int, Field(ge=0, lt=2**53)]
_KINDS = {
    kind.__name__: kind
    for kind in (
        *(errors.NotFound, errors.InvalidRequest, errors.Conflict, errors.TooLarge, errors.Unavailable),
        errors.OutOfService,
    )
}
CONTROL = "control"
ACCEPTOR = "acceptor"
SERVING = "serving"
#: A path that is not quite one of these goes to control, which answers that there is no such route.
_PREDICTION = re.compile(rb"/v1/(?:models|calibrators)/[^/]+/predict|/v2/models/[^/]+(?:/versions/[^/]+)?/infer")
Member = TypeVar("Member")


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
    """A process that takes no more connections."""

    kind: Literal["gone"] = "gone"
    name: ProcessName


class End(Document):
    """The parent is to end this process, if it still runs, and to start it again."""

    kind: Literal["end"] = "end"
    name: ProcessName
    pid: Number
    reason: Text


class Wanted(Document):
    """A notice that the served copy of this model is asked for and not there."""

    kind: Literal["wanted"] = "wanted"
    model: ModelId


class Counted(Document):
    """Counts of this process, as the content; its release, and what its models run on."""

    kind: Literal["counted"] = "counted"
    release: Text
    provider: Text


class Spans(Document):
    """Spans that have ended, as the content: an OTLP request."""

    kind: Literal["spans"] = "spans"


class Stuck(Document):
    """A run of this served copy did not end when its time was up: the process ends."""

    kind: Literal["stuck"] = "stuck"
    digest: Digest


class Leaving(Document):
    """A notice that a process stops: it answers the connections that it has, and takes no more."""

    kind: Literal["leaving"] = "leaving"


class Numbered(Document):
    """A question with a number, or its answer."""

    number: Number


class Refusal(Numbered):
    """An error of the registry's family in place of an answer."""

    kind: Literal["refusal"] = "refusal"
    error: str
    code: str
    message: str
    field: str | None = None
    passing: bool = False


class Open(Numbered):
    """Open the model behind this name or id."""

    kind: Literal["open"] = "open"
    called: str
    version: str | None = None


class Count(Numbered):
    """Send what was counted: it is about to be shown."""

    kind: Literal["count"] = "count"


class Done(Numbered):
    kind: Literal["done"] = "done"


ToControl = Annotated[
    Connection | Wanted | Done | Refusal | Counted | Spans | Stuck | Leaving | Peer | Gone,
    Field(discriminator="kind"),
]
ToServing = Annotated[Connection | Open | Count, Field(discriminator="kind")]
ToAcceptor = Annotated[Connection | Peer | Gone, Field(discriminator="kind")]
#: Messages that answer a question: each has the number of it.
Answer = Refusal | Done


def refusal_of(number: int, error: errors.RegistryError) -> Refusal:
    """The document; of an error that no question can have, `Unavailable`."""
    name = type(error).__name__ if type(error).__name__ in _KINDS else "Unavailable"
    passing = isinstance(error, errors.Conflict) and error.passing
    return Refusal(
        number=number, error=name, code=error.code, message=error.message, field=error.field, passing=passing
    )


def error_of(refusal: Refusal) -> errors.RegistryError:
    if refusal.error == errors.Conflict.__name__:
        return errors.Conflict(refusal.code, refusal.message, field=refusal.field, passing=refusal.passing)
    return _KINDS.get(refusal.error, errors.Unavailable)(refusal.code, refusal.message, field=refusal.field)


def place_of_request(path: bytes) -> str:
    """The place of a `POST` to this path, as it was received; that of any other request is control.

    >>> place_of_request(b"/v1/models/spam/predict"), place_of_request(b"/v1/jobs")
    ('serving', 'control')
    """
    return SERVING if _PREDICTION.fullmatch(unquote_to_bytes(path) if b"%" in path else path) else CONTROL


def place_of(process: str) -> str:
    """The place that a process serves.

    >>> place_of("serving-3"), place_of("control")
    ('serving', 'control')
    """
    return SERVING if process.startswith(SERVING) else process


class Members(Generic[Member]):
    """The members of each place: the processes that take its connections, in turn."""

    def __init__(self) -> None:
        self._by_place: dict[str, deque[Member]] = {}

    def join(self, process: str, member: Member) -> None:
        self._by_place.setdefault(place_of(process), deque()).append(member)

    def leave(self, process: str, member: Member) -> None:
        with suppress(ValueError):  # it has left before
            self._by_place[place_of(process)].remove(member)

    def of(self, place: str) -> set[Member]:
        return set(self._by_place.get(place, ()))

    def in_turn(self, place: str) -> Iterator[Member]:
        """Members of one place, each once, beginning with the one whose turn it is."""
        members = self._by_place.get(place, deque())
        in_turn = list(members)
        members.rotate(-1)
        yield from in_turn
