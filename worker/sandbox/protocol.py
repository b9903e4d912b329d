"""The protocol of the sandbox: the request that a child reads and the answer that it leaves, as models.

The request is written by the supervisor and validated by the child; the answer comes from a process that may have
been taken over, and every part of it is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SerializeAsAny

REQUEST, ANSWER = "request.json", "answer.json"

JsonObject = dict[str, JsonValue]
Order = TypeVar("Order", bound=BaseModel)

_LONGEST_MESSAGE = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a child; None means no limit of its own.

    Attributes:
        seconds: wall clock; the processor time of all cores is limited to as much.
        address_space: bytes mapped, files and libraries among them.
        file_size: bytes of each file written.
        memory: bytes of private writable memory (`RLIMIT_DATA`).
        cores: it runs on so many; every thread of a library's pool takes memory for its stack.
    """

    seconds: float
    address_space: int | None = None
    file_size: int | None = None
    memory: int | None = None
    cores: int | None = None


class ChildRequest(BaseModel, Generic[Order]):
    """The request to a child.

    Attributes:
        order: what is to be done; nothing in it decides what the child may read.
        files: the files that the child may read, and no others, by the names that its function knows.
        expected: controls of `worker.sandbox.confinement` without which the child opens nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: SerializeAsAny[Order]
    limits: Limits
    files: dict[str, str] = {}
    expected: list[str] = []


class Confined(BaseModel):
    """The first event: for each control of `worker.sandbox.confinement` how it is on, or why it is off."""

    confined: dict[str, str]


def _cut(message: object) -> object:
    return message[:_LONGEST_MESSAGE] if isinstance(message, str) else message


class ChildError(BaseModel):
    """The reason of a missing result, as it may stand in records and logs."""

    model_config = ConfigDict(strict=True, frozen=True)

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    message: Annotated[str, BeforeValidator(_cut)]
    user_error: bool


class ChildAnswer(BaseModel):
    """The answer of a child: the JSON of its result, or an error. The result is validated by its kind of work."""

    model_config = ConfigDict(frozen=True)

    result: JsonObject | None = None
    error: ChildError | None = None
