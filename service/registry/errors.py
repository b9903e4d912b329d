"""The error family of the registry and the service; `service.http.problems` maps it to status codes.

RegistryError
├── NotFound             no record has this id (or what was asked of it does not exist)
├── UnknownReference     a request names a record that does not exist
├── InvalidRequest       a request is well formed but cannot be carried out
│   └── UnsupportedFormat  its body is in no format that is read
├── Conflict             the record's state forbids it
│   ├── KeyInFlight      another request with the same idempotency key is still running
│   └── OffsetMismatch   a piece of an upload does not begin where the upload ends
├── KeyReused            an idempotency key came back with other content
├── TooLarge             more bytes or rows than the operator allows
├── Overloaded           too much is queued; `retry_after` seconds later there may be room
├── DeadlineExceeded     the answer would come later than the client can use it
├── Stalled              a client began to send and then sent nothing more
├── WorkFailed           a worker could not finish what a request waits for, and the sender cannot mend it
├── LeaseLost            another worker owns the work now; nothing more may be written
│   └── WorkGone           nobody does: it has ended with the job or batch that it was a piece of
└── Unavailable          database, storage or broker cannot be reached
    ├── PeerAway           a process that answers predictions does not respond to control
    └── OutOfService       a model may not be run, or not in this process
"""

from __future__ import annotations


class RegistryError(Exception):
    """Base of the family: a stable machine `code` and a sentence; `field` names the part of a request at fault."""

    def __init__(self, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class BackupRefused(Exception):
    """A backup cannot be taken, or not put back; its sentence says what to do. No request meets it."""


class NotFound(RegistryError):
    """No record has this id."""


class UnknownReference(RegistryError):
    """A request names a record that does not exist."""


class InvalidRequest(RegistryError):
    """A request is well formed but cannot be carried out."""


class UnsupportedFormat(InvalidRequest):
    """A request's body is in no format that is read."""


class Conflict(RegistryError):
    """The record's state forbids what was asked; `passing` where that changes by itself, so that waiting helps."""

    def __init__(self, code: str, message: str, *, field: str | None = None, passing: bool = False) -> None:
        super().__init__(code, message, field=field)
        self.passing = passing


class KeyInFlight(Conflict):
    """Another request with the same idempotency key is still running."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, passing=True)


class OffsetMismatch(Conflict):
    """A piece of an upload does not begin where the upload ends, which is at `offset`."""

    def __init__(self, code: str, message: str, *, offset: int) -> None:
        super().__init__(code, message)
        self.offset = offset


class KeyReused(RegistryError):
    """An idempotency key came back with other content."""


class TooLarge(RegistryError):
    """More bytes or rows than the operator allows."""


class Overloaded(RegistryError):
    """Too much is queued; after `retry_after` seconds there may be room."""

    def __init__(self, code: str, message: str, *, retry_after: int) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class DeadlineExceeded(RegistryError):
    """The answer would come later than the client can use it."""


class Stalled(RegistryError):
    """A client began to send and then sent nothing more."""


class WorkFailed(RegistryError):
    """A worker could not finish what a request waits for, and the sender cannot mend it."""


class LeaseLost(RegistryError):
    """Another worker owns the work now; nothing more may be written."""


class WorkGone(LeaseLost):
    """Nobody owns the work any more: it has ended with the job or batch that it was a piece of."""


class Unavailable(RegistryError):
    """Database, storage or broker cannot be reached."""


class OutOfService(Unavailable):
    """A model may not be run now, or not in this process, whatever was known of it."""


class PeerAway(Unavailable):
    """A process that was asked for something does not answer; it may be being started again."""

    def __init__(self) -> None:
        super().__init__("unavailable", "a process that answers predictions does not respond; come again in 1 s")
