"""The protocol of the sandbox: the request that a child reads, the answer that it leaves, and replies while it runs.

The request is written by the supervisor and validated by the child; the answer comes from a process that may have
been taken over, and every part of it is bounded. Nobody waits for a child that does not read its replies.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SerializeAsAny

REQUEST = "request.json"
ANSWER = "answer.json"

JsonObject = dict[str, JsonValue]
Order = TypeVar("Order", bound=BaseModel)

_MAX_MESSAGE = 10_000
#: The answers about the trainings of a thousand candidates take less.
_MAX_REPLY = 1024**2
#: A child that asks reads soon; one that leaves a reply unread for so long is ended.
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a child; None means no limit.

    Time and memory count from the moment when it has loaded its libraries: these take 0.2 GB with one build of PyTorch
    and 0.8 GB with another, and no upload has been opened by then.

    Attributes:
        seconds: wall clock; the processor time of all cores is limited to as much.
        address_space: bytes mapped, files among them.
        file_size: bytes of each file written.
        memory: bytes of private writable memory (`RLIMIT_DATA`).
        cores: the number that it runs on; every thread of a library's pool takes memory for its stack.
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


class Loaded(BaseModel):
    """The second event: what a child holds, in bytes, once it has loaded its libraries, and how long that took."""

    model_config = ConfigDict(strict=True, frozen=True)

    address_space: int
    resident: int
    data: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.data / 1e6:,.0f} MB of private data, {self.resident / 1e6:,.0f} MB resident, "
            f"{self.address_space / 1e6:,.0f} MB of address space, in {self.seconds:.1f} s"
        )


class ChildError(BaseModel):
    """The reason of a missing result, as it may stand in records and logs."""

    model_config = ConfigDict(strict=True, frozen=True)

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    message: Annotated[str, BeforeValidator(lambda text: text[:_MAX_MESSAGE] if isinstance(text, str) else text)]
    user_error: bool


class ChildAnswer(BaseModel):
    """The answer of a child: the JSON of its result, or an error. The result is validated by its kind of work."""

    model_config = ConfigDict(frozen=True)

    result: JsonObject | None = None
    error: ChildError | None = None


class Replies:
    """The replies to one child, safe to be sent by any thread; what its pipe does not take at once is written later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = None
        self._unread = b""
        self._unread_since = 0.0

    def connect(self, pipe: int) -> None:
        """The child has started, and reads from the other end of this pipe."""
        os.set_blocking(pipe, False)
        with self._lock:
            self._pipe = pipe

    def disconnect(self) -> None:
        with self._lock:
            self._pipe, self._unread = None, b""

    def send(self, reply: BaseModel) -> None:
        """Send one reply, if the child has not ended; raises ValueError where it is longer than any reply."""
        line = reply.model_dump_json().encode() + b"\n"
        if len(line) > _MAX_REPLY:
            raise ValueError(f"a reply of {len(line)} bytes is longer than {_MAX_REPLY}")
        with self._lock:
            self._unread += line
            self._unread_since = time.monotonic()
            self._write()

    def flush(self) -> None:
        """Write what the pipe takes now of what it has not taken before."""
        with self._lock:
            self._write()

    @property
    def unread(self) -> bool:
        return bool(self._unread)

    @property
    def ignored(self) -> bool:
        """True where the child has had all the time that it needs to read its input."""
        return self.unread and time.monotonic() - self._unread_since > _PATIENCE_S

    def _write(self) -> None:
        if self._pipe is None:
            return
        try:
            while self._unread:
                self._unread = self._unread[os.write(self._pipe, self._unread) :]
        except BlockingIOError:  # the pipe is full
            pass
        except BrokenPipeError:  # the child is about to end
            self._unread = b""
