"""Errors of the client: each is a sentence, with a `code` for machines and what the server reported; none a ValueError.

fedlas.errors.FedLASError
├── ConversionError                     an object that cannot be written as a file that the service takes
└── ClientError                         code, message, field, status, request_id, detail, errors, user_error
    ├── ConfigurationError              a URL, a key or a profile that cannot be used
    ├── FileError                       a local file: not there, a folder, empty, a full disk
    ├── InvalidInput                    values that cannot be sent
    ├── DigestMismatch                  bytes arrived that are not those that were sent
    ├── SignatureError                  a message to a webhook that this service did not sign
    ├── WaitTimeout                     `wait_timeout` is up, and the work goes on
    ├── WorkFailed                      requested work has ended without a result: `record`
    │   ├── Rejected                    inspection found a model or dataset bad
    │   ├── JobFailed                   a job, batch or calibrator has failed
    │   └── JobCancelled                somebody cancelled the job
    └── APIError                        the server, or the way to it
        ├── APIConnectionError          no connection, or no answer in time
        ├── ServerMismatch              an answer that this client cannot read; it names both versions
        └── APIStatusError              the server refused a request
            ├── AuthenticationError     401: no key, or one that the server does not know
            ├── PermissionDeniedError   403, 421
            ├── NotFoundError           404
            ├── ConflictError           409: the record's state forbids it
            ├── InvalidRequestError     400, 413, 415, 422: something in it is wrong; `field` says what
            ├── RateLimitError          429
            └── ServerError             5xx: a defect or a fault of the server's
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from fedlas.contract.problems import FieldError
from fedlas.errors import FedLASError


class ClientError(FedLASError):
    """Base of the family."""

    field: str | None = None
    status: int | None = None
    request_id: str | None = None
    detail: str | None = None
    errors: Sequence[FieldError] = ()

    def about(self, what: str) -> Self:
        """The error with its subject put before its sentence."""
        self.message = f"{what}: {self.message}"
        self.args = (self.message,)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as it is, for other processes: the constructors want more than the message."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[ClientError], args: tuple[Any, ...], state: dict[str, Any]) -> ClientError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(ClientError):
    """The URL, the key or the profile cannot be used."""


class FileError(ClientError):
    """A local file cannot be read or written."""


class InvalidInput(ClientError):
    """Values that cannot be sent."""


class DigestMismatch(ClientError):
    """The bytes that arrived are not those that were sent."""

    def __init__(self, message: str) -> None:
        super().__init__("digest_mismatch", message)


class WaitTimeout(ClientError, TimeoutError):
    """`wait_timeout` is up; the work goes on."""

    def __init__(self, message: str) -> None:
        super().__init__("wait_timeout", message)


class SignatureError(ClientError):
    """The message is not from this service, or not of now."""


class WorkFailed(ClientError):
    """Requested work that has ended without a result.

    Attributes:
        record: as it ended.
    """

    def __init__(self, code: str, message: str, *, record: Any, user_error: bool = True) -> None:
        super().__init__(code, message)
        self.record, self.user_error = record, user_error


class Rejected(WorkFailed):
    """Inspection found the uploaded model or dataset bad."""


class JobFailed(WorkFailed):
    """A job, a batch or a calibrator has failed; `user_error` says whether its owner can mend it."""


class JobCancelled(WorkFailed):
    """The job was cancelled."""


class APIError(ClientError):
    """The server refuses or cannot be understood, or the way to it is lost."""

    def __init__(self, code: str, message: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(code, message)
        self.status, self.request_id = status, request_id


class APIConnectionError(APIError):
    """The server cannot be reached, or did not answer in time."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__("server_unreachable", message, request_id=request_id)


class ServerMismatch(APIError):
    """The answer is none that this client can read: another version, or no such service at this URL."""

    def __init__(self, message: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__("server_mismatch", message, status=status, request_id=request_id)


class APIStatusError(APIError):
    """The server refused the request."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int,
        request_id: str | None = None,
        detail: str | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(code, message, status=status, request_id=request_id)
        self.detail, self.errors = detail, tuple(errors)
        self.field = errors[0].field if errors else None


class AuthenticationError(APIStatusError):
    """No key was given, or one that the server does not know."""


class PermissionDeniedError(APIStatusError):
    """The server answers no requests from there, or under this name."""


class NotFoundError(APIStatusError):
    """There is no such record."""


class ConflictError(APIStatusError):
    """The record's state forbids it."""


class InvalidRequestError(APIStatusError):
    """Something in the request is wrong."""


class RateLimitError(APIStatusError):
    """Too many requests; the server asked to come again later."""


class ServerError(APIStatusError):
    """A defect of the server, or something that it needs is not there."""

    user_error = False
