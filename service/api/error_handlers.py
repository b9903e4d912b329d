"""The handlers of errors that FastAPI calls: each error is answered as a problem."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from service.api import problems
from service.api.methods import allowed_methods
from service.registry import errors


def install(app: FastAPI) -> None:
    """Register the handler of all errors that are answers."""
    for kind in (errors.RegistryError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)


def _answer(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, HTTPException) and isinstance(error.__cause__, errors.RegistryError):
        error = error.__cause__  # raised while the framework was reading the body
    if isinstance(error, errors.RegistryError):
        return problems.problem_of(path, error)
    if isinstance(error, ValidationError):
        return problems.invalid(path, error)
    if isinstance(error, RequestValidationError):
        return problems.invalid_parts(path, error.errors())
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == 405:
        headers = {"Allow": allowed_methods(request.scope)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    code = HTTPStatus(error.status_code).name.lower()
    return problems.problem(error.status_code, code, str(error.detail), path=path, headers=headers)
