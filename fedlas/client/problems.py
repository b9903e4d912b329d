"""Problems: the error of an answer that refuses, or is none of this service's, and which are worth another try."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from functools import cache, partial
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

import fedlas
from fedlas.client import errors
from fedlas.contract.base import ANOTHER_VERSION
from fedlas.contract.problems import FieldError

T = TypeVar("T")
_KINDS: dict[int, type[errors.APIStatusError]] = {
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    421: errors.PermissionDeniedError,
    429: errors.RateLimitError,
}
#: Statuses of a gateway that stands in while the service is away.
_OF_GATEWAYS = frozenset({502, 503, 504})
#: Codes of a path that a server does not have; records that are not there have codes of their own.
_NO_SUCH_ROUTE = frozenset({"not_found", "method_not_allowed"})


class Unreadable(Exception):
    """An answer that cannot be read; the transport makes a ServerMismatch of it that names both versions."""


def code_of(response: httpx.Response) -> str:
    """The problem's machine code; empty where the answer is no problem of this service."""
    problem = _problem(response)
    return str(problem.get("code", "")) if problem else ""


def refusal(response: httpx.Response) -> errors.APIStatusError:
    """The error of an answer that refuses; raises Unreadable where it is not this service's, or of another version."""
    problem = _problem(response)
    status, request_id = response.status_code, response.headers.get("x-request-id")
    if problem is None or problem.get("code") in _NO_SUCH_ROUTE:
        if problem is not None or status == 404 or (status not in _OF_GATEWAYS and not request_id):
            raise Unreadable(describe(response))
        problem = {"code": f"http_{status}", "detail": f"the server answers {status} {response.reason_phrase}"}
    kind = _KINDS.get(status, errors.ServerError if status >= 500 else errors.InvalidRequestError)
    listed = problem.get("errors")
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    fields = [FieldError(field=str(item.get("field", "")), message=str(item.get("message", ""))) for item in items]
    detail = str(problem.get("detail") or response.reason_phrase)
    message = f"{detail}; set FEDLAS_API_KEY, or give the key" if status == 401 else detail
    if status >= 500 and request_id:
        message = f"{message} (X-Request-Id {request_id})"
    code = str(problem.get("code") or f"http_{status}")
    return kind(code, message, status=status, request_id=request_id, detail=detail, errors=fields)


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        document = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "code" in document else None


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def read(response: httpx.Response, kind: type[T]) -> T:
    """The typed content of an answer; raises Unreadable."""
    parse: Callable[[bytes], T] = partial(_adapter(kind).validate_json, extra="allow", context=ANOTHER_VERSION)
    return made(response, parse)


def made(response: httpx.Response, make: Callable[[bytes], T]) -> T:
    """Parse the answer's bytes by `make`, which raises ValueError for others; raises Unreadable."""
    try:
        return make(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        reason = f"in which {place} is not as expected ({first['msg']})"
        raise Unreadable(f"{describe(response)}, {reason}") from None
    except ValueError as error:
        raise Unreadable(f"{describe(response)}, which cannot be read ({error})") from None


def describe(response: httpx.Response) -> str:
    kind = response.headers.get("content-type", "").split(";")[0] or "no content type"
    request = response.request
    what = f"{request.method} {request.url.path} was answered with {response.status_code} ({kind})"
    if response.is_redirect:
        what += f", a redirect to {response.headers.get('location', 'nowhere')}"
    return what


def server_version(response: httpx.Response) -> str | None:
    """The version in a server's answer for `/openapi.json`; None where it is no such server."""
    try:
        info = response.json()["info"]
        return str(info["version"]) if "fedlas" in str(info["title"]).lower() else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def mismatch(observation: str, server_version: str | None, response: httpx.Response) -> errors.ServerMismatch:
    """The error that names both versions, or says that something else answers at this URL."""
    base = f"{response.request.url.scheme}://{response.request.url.netloc.decode()}"
    if server_version is None:
        message = f"{observation}: what answers at {base} does not look like a FedLAS service; check the URL"
    else:
        message = f"{observation}: the server is version {server_version}, this client is {fedlas.__version__}"
    return errors.ServerMismatch(message, status=response.status_code, request_id=response.headers.get("x-request-id"))


def unreachable(error: httpx.TransportError, url: str, request_id: str | None) -> errors.APIConnectionError:
    reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        what = "could not be reached" if isinstance(error, httpx.ConnectTimeout) else "did not answer"
        message = f"the server at {url} {what} in time"
    elif isinstance(error, httpx.ConnectError):
        message = f"no connection to {url}: {reason}"
        if "refused" in reason.lower():
            message += "; is it running, and is this its URL (FEDLAS_URL)? `fedlas serve` starts one"
    elif "illegal" in reason:
        message = f"what answers at {url} does not speak HTTP; check the URL"
    else:
        message = f"the connection to {url} was lost: {reason}"
    return errors.APIConnectionError(message, request_id=request_id)


_FIRST_S = 0.4
_MAX_PAUSE_S = 8.0
#: Seconds after the beginning of a call in which it may be tried again, and those of one try where that takes longer.
MAX_CALL_S = 120.0
_PASSING = frozenset({408, 429, 502, 503, 504})
#: The code while the same request is still being answered, perhaps the one whose connection was lost.
IN_FLIGHT = "idempotency_key_in_flight"
#: Never passes within a few tries: a job takes minutes, and the time that an answer was of use is up.
_LASTING = frozenset({"not_finished", "deadline_exceeded"})
#: A defect of the server, or a conflict that passes, is seldom gone after the second try.
_MAX_DOUBTFUL_RETRIES = 2


class Retries(Enum):
    """How often a request may be sent again."""

    WHERE_IT_HELPS = auto()
    #: The answer is of use for a while only, and a server that says nothing may still compute it.
    NOT_FOR_SILENCE = auto()
    #: The second time would do something a second time.
    NONE = auto()


def max_retries_of(response: httpx.Response, code: str, most: int) -> float:
    """How often a request with this answer, and a problem's `code`, is sent again; at most `most` times."""
    if code in _LASTING:
        return 0
    if code == IN_FLIGHT:
        return math.inf if most else 0  # until the time of the call is up
    if response.status_code == 409:
        return 0 if retry_after(response) is None else min(most, _MAX_DOUBTFUL_RETRIES)
    if response.status_code in _PASSING:
        return most
    return min(most, _MAX_DOUBTFUL_RETRIES) if response.status_code >= 500 else 0


def delay_before_retry(response: httpx.Response, tries: int) -> float:
    """Seconds to the next try: those of `Retry-After`, or by the number of tries."""
    asked = retry_after(response)
    return backoff(min(tries, 4)) if asked is None else max(asked, _FIRST_S / 2) * random.uniform(1, 1.25)


def backoff(retries: int) -> float:
    """Seconds to wait after a connection was lost: twice as long each time, and never as long as others wait."""
    return min(_MAX_PAUSE_S, _FIRST_S * 2.0**retries) * random.uniform(0.5, 1)


def retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait by the server's `Retry-After`; it may be a date."""
    if not (text := response.headers.get("retry-after", "").strip()):
        return None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    now = datetime.now(UTC)
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp())
