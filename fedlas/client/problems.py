"""Problems: from an answer that refuses to the error that is raised, and answers that are none of this service's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

import fedlas
from fedlas.client import errors

T = TypeVar("T")

_KINDS: dict[int, type[errors.Refused]] = {
    401: errors.NotAuthenticated,
    403: errors.NotPermitted,
    404: errors.NotFound,
    409: errors.Conflict,
    421: errors.NotPermitted,
    429: errors.Overloaded,
}
#: What stands before the service answers for it while it is away.
_OF_GATEWAYS = frozenset({502, 503, 504})
#: What a server says of a path that it does not have; records that are not there have codes of their own.
_NO_SUCH_ROUTE = frozenset({"not_found", "method_not_allowed"})


class Unreadable(Exception):
    """Why an answer cannot be read; the transport makes a ServerMismatch of it that names both versions."""


def code_of(response: httpx.Response) -> str:
    """The problem's machine code; empty where the answer is no problem of this service."""
    problem = _problem(response)
    return str(problem.get("code", "")) if problem else ""


def refusal(response: httpx.Response) -> errors.Refused:
    """The error of an answer that refuses; raises Unreadable where it is not this service's, or of another version."""
    problem = _problem(response)
    status, request_id = response.status_code, response.headers.get("x-request-id")
    if problem is None or problem.get("code") in _NO_SUCH_ROUTE:
        no_such_route = problem is not None or status == 404
        if no_such_route or (status not in _OF_GATEWAYS and not request_id):
            raise Unreadable(describe(response))
        problem = {"code": f"http_{status}", "detail": f"the server answers {status} {response.reason_phrase}"}
    kind = _KINDS.get(status, errors.ServerError if status >= 500 else errors.InvalidRequest)
    fields = [errors.FieldError(str(item.get("field", "")), str(item.get("message", ""))) for item in _items(problem)]
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
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "code" in found else None


def _items(problem: dict[str, Any]) -> list[dict[str, Any]]:
    found = problem.get("errors")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def read(response: httpx.Response, kind: type[T]) -> T:
    """The typed content of an answer; raises Unreadable."""
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        adapter = _ADAPTERS[kind] = TypeAdapter(kind)
    try:
        found: T = adapter.validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise Unreadable(f"{describe(response)}, in which {place} is not as expected ({first['msg']})") from None
    return found


def made(response: httpx.Response, make: Callable[[bytes], T]) -> T:
    """What is made of the answer's bytes, where that raises ValueError for others; raises Unreadable."""
    try:
        return make(response.content)
    except ValueError as error:
        raise Unreadable(f"{describe(response)}, which cannot be read ({error})") from None


def describe(response: httpx.Response) -> str:
    """What was asked and what came, in words."""
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


def mismatch(found: str, server_version: str | None, response: httpx.Response) -> errors.ServerMismatch:
    """The error that names both versions, or says that something else answers at this URL."""
    base = f"{response.request.url.scheme}://{response.request.url.netloc.decode()}"
    if server_version is None:
        message = f"{found}: what answers at {base} does not look like a FedLAS service; check the URL"
    else:
        message = f"{found}: the server is version {server_version}, this client is {fedlas.__version__}"
    return errors.ServerMismatch(message, status=response.status_code, request_id=response.headers.get("x-request-id"))


def unreachable(error: httpx.TransportError, url: str, request_id: str | None) -> errors.ServerUnreachable:
    """The error of a connection that was not made, or was lost."""
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
    return errors.ServerUnreachable(message, request_id=request_id)
