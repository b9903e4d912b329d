"""The only place that marries errors with status codes: every error leaves as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from service.registry import errors

_LOG = logging.getLogger(__name__)

_STATUS: dict[type[errors.RegistryError], int] = {
    errors.NotFound: 404,
    errors.UnknownReference: 422,
    errors.InvalidRequest: 422,
    errors.KeyReused: 422,
    errors.Conflict: 409,
    errors.KeyInFlight: 409,
    errors.TooLarge: 413,
    errors.NotYetAvailable: 501,
    errors.Unavailable: 503,
    errors.LeaseLost: 409,
    errors.Stalled: 408,
    errors.WorkFailed: 500,
}


class FieldError(BaseModel):
    """One invalid part of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457, with a stable machine `code`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = []


#: For the OpenAPI document: what any operation may answer.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Problem", "content": {"application/problem+json": {}}},
}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    fields: list[FieldError] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Build the answer."""
    title = HTTPStatus(status).phrase
    body = Problem(title=title, status=status, detail=detail, code=code, errors=fields or [])
    content = body.model_dump(exclude=None if fields else {"errors"})
    return JSONResponse(content, status, headers=headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(errors.RegistryError, _on_registry_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)


def _on_registry_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.RegistryError)
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    fields = [FieldError(field=error.field, message=error.message)] if error.field else None
    headers = {"Retry-After": "2"} if isinstance(error, errors.Unavailable | errors.KeyInFlight) else None
    if isinstance(error, errors.OffsetMismatch):
        headers = {"Upload-Offset": str(error.offset)}
    return problem(status, error.code, error.message, fields=fields, headers=headers)


def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | ValidationError)
    fields = [
        FieldError(field=_field(item["loc"]), message=item["msg"].removeprefix("Value error, "))
        for item in error.errors()
    ]
    detail = "; ".join(f"{item.field}: {item.message}" for item in fields[:5])
    if any(item["type"] in ("json_invalid", "json_type") for item in error.errors()):
        return problem(422, "invalid_json", f"the body is not valid JSON: {detail}", fields=fields)
    return problem(422, "invalid_request", detail, fields=fields)


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


def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, errors.RegistryError):  # raised while the framework was reading the body
        return _on_registry_error(request, error.__cause__)
    if isinstance(error.__cause__, UnicodeDecodeError):
        return problem(422, "invalid_json", "the body is not valid JSON: it is not UTF-8 text")
    code = HTTPStatus(error.status_code).name.lower()
    return problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))


def defect(method: str, path: str, error: Exception) -> JSONResponse:
    """Log what nobody foresaw, and build the answer."""
    _LOG.error("unhandled error in %s %s", method, path, exc_info=error)
    return problem(500, "internal_error", "an unexpected error happened; quote the X-Request-Id when reporting it")
