"""Problems (RFC 9457): the mapping of errors to status codes.

Every error leaves as `application/problem+json` (RFC 9457); under `/v2` as that protocol wants it, `{"error": "…"}`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import JSONResponse, Response

from fedlas.contract.problems import FieldError, Problem
from service.registry import errors
from service.registry.errors import Stalled, TooLarge

_LOG = logging.getLogger(__name__)

#: Phrases of RFC 9110 that Python has since 3.13 only: an answer does not depend on that.
_PHRASES = {413: "Content Too Large", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}

_STATUS: dict[type[errors.RegistryError], int] = {
    errors.NotFound: 404,
    errors.UnknownReference: 422,
    errors.InvalidRequest: 422,
    errors.KeyReused: 422,
    errors.UnsupportedFormat: 415,
    errors.Conflict: 409,
    errors.KeyInFlight: 409,
    errors.TooLarge: 413,
    errors.Overloaded: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.LeaseLost: 409,
    errors.Stalled: 408,
    errors.WorkFailed: 500,
}


#: Invalid parts that an answer names; the rest are counted.
MAX_ERRORS = 20
#: The longest text in an answer: what a client sent may be in it.
_MAX_CHARACTERS = 2000
_FIELD_CHARACTERS = 200

#: The Open Inference Protocol has errors of its own; what is not ready is 503 there.
PROTOCOL = "/v2"
_PROTOCOL_STATUS = {"model_not_ready": 503, "model_unloaded": 503}


#: The responses of an operation in the OpenAPI document, by status code.
Responses = dict[int | str, dict[str, Any]]
#: FastAPI adds no errors of its own to an operation that has these; `service.api.document` puts the true ones there.
RESPONSES: Responses = {"4XX": {"description": "Refused."}}


def phrase(status: int) -> str:
    """The phrase of a status code, by RFC 9110."""
    return _PHRASES.get(status, HTTPStatus(status).phrase)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    path: str,
    fields: list[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    detail = _bounded(detail)
    if path.startswith(PROTOCOL):
        return JSONResponse({"error": detail}, protocol_status(code, status), headers=headers)
    body = Problem(
        type=f"/errors/{code}",
        title=phrase(status),
        status=status,
        detail=detail,
        code=code,
        errors=fields or [],
    )
    content = body.model_dump(exclude=None if fields else {"errors"})
    return JSONResponse(content, status, headers=headers, media_type="application/problem+json")


def only_post(path: str, method: str) -> Response:
    """The answer to another method where only `POST` is allowed."""
    if method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": "POST"})
    return problem(405, "method_not_allowed", "Method Not Allowed", path=path, headers={"Allow": "POST"})


def protocol_status(code: str, status: int) -> int:
    """The status code under `/v2` for what is `status` under `/v1`."""
    return _PROTOCOL_STATUS.get(code, 400 if status == 422 else status)


def status_of(error: errors.RegistryError) -> int:
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def problem_of(path: str, error: errors.RegistryError) -> JSONResponse:
    """The answer that an error of the domain is, in a request for `path`."""
    fields = [_field_error(error.field, error.message)] if error.field else None
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unavailable) or (isinstance(error, errors.Conflict) and error.passing):
        headers["Retry-After"] = "2"
    elif isinstance(error, errors.Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, errors.OffsetMismatch):
        headers["Upload-Offset"] = str(error.offset)
    elif error.code == "too_large":  # the body may not have been read to its end
        headers["Connection"] = "close"
    return problem(status_of(error), error.code, error.message, path=path, fields=fields, headers=headers)


@contextmanager
def named_by_body(field: str) -> Iterator[None]:
    """Turn NotFound in this block into 422: a field of the body named the record."""
    try:
        yield
    except errors.NotFound as error:
        raise errors.UnknownReference(error.code, error.message, field=field) from error


def invalid(path: str, error: ValidationError) -> JSONResponse:
    """The answer to a request whose shape is wrong, without what was sent and where to read of it: most of the time."""
    return invalid_parts(path, error.errors(include_url=False, include_context=False, include_input=False))


def invalid_parts(path: str, error_details: Sequence[ErrorDetails]) -> JSONResponse:
    by_field: dict[str, list[str]] = {}
    for item in error_details:
        by_field.setdefault(_field(item["loc"]), []).append(item["msg"].removeprefix("Value error, "))
    fields = [_field_error(field, _either(messages)) for field, messages in islice(by_field.items(), MAX_ERRORS)]
    detail = "; ".join(f"{item.field or 'the body'}: {item.message}" for item in fields[:5])
    if len(by_field) > MAX_ERRORS:
        detail += f"; {len(by_field)} errors in all"
    if any(item["type"] in ("json_invalid", "json_type") for item in error_details):
        detail = f"the body is not valid JSON: {detail}"
        return problem(422, "invalid_json", detail, path=path, fields=fields)
    return problem(422, "invalid_request", detail, path=path, fields=fields)


def _either(messages: Sequence[str]) -> str:
    """One message about a field that may be one thing or another, each of which says why it is not that.

    >>> _either(["Input should be greater than or equal to 1", "Input should be 'auto'"])
    "Input should be greater than or equal to 1, or 'auto'"
    """
    first, *others = dict.fromkeys(messages)
    return ", or ".join([first, *(other.removeprefix("Input should be ") for other in others)])


def _field_error(field: str, message: str) -> FieldError:
    return FieldError(field=_bounded(field, _FIELD_CHARACTERS), message=_bounded(message))


def _bounded(text: str, most: int = _MAX_CHARACTERS) -> str:
    """The text, no longer than that, and such that it can be written as UTF-8: JSON may hold half of a character."""
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return short if short.isascii() else short.encode("utf-8", "replace").decode()


def _field(location: tuple[int | str, ...]) -> str:
    """`("body", "hyperparameters", "alpha", "constrained-float")` → `hyperparameters.alpha`."""
    parts = list(location)
    if len(parts) > 1 and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    # Unions append the name of the branch that failed: no field of the sender's.
    parts = parts[:1] + [part for part in parts[1:] if not (isinstance(part, str) and ("[" in part or "-" in part))]
    if len(parts) > 1 and parts[-1] in ("float", "int", "auto"):
        parts = parts[:-1]
    return ".".join(map(str, parts))


def defect(method: str, path: str, error: Exception) -> JSONResponse:
    """Log an unexpected error, and build the answer."""
    _LOG.error("unhandled error in %s %s", method, path, exc_info=error)
    detail = "an unexpected error happened; quote the X-Request-Id when reporting it"
    return problem(500, "internal_error", detail, path=path)


#: Equal to nginx's `client_body_timeout`.
BODY_TIMEOUT_S = 60.0


def too_large(limit: int) -> TooLarge:
    return TooLarge("too_large", f"the body is larger than the limit of {limit} bytes")


def stalled() -> Stalled:
    detail = f"nothing arrived for {BODY_TIMEOUT_S:.0f} s in the middle of the body; send the request again"
    return Stalled("body_stalled", detail)


def printable(text: str) -> str:
    """The text as an answer may show it: what cannot be printed is written as an escape."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
