"""The handlers of errors that FastAPI calls, and of the methods that it would refuse.

`OPTIONS` and 405 name all methods of a path, and `HEAD` is answered wherever `GET` is: the framework's router asks its
routes one by one, and refuses for the first that knows the path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http import problems
from service.registry import errors

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


class HeadMiddleware:
    """Answers `HEAD` as `GET` without the body; the innermost middleware.

    An answer in pieces is ended after the first: a stream may have no end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        answered = False

        async def send_without_body(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                await send(message)
            elif not answered:  # a file is only named (`pathsend`) and not read
                answered = True
                await send({"type": "http.response.body"})
                if message.get("more_body"):
                    answering.cancel()

        as_get = {**scope, "method": "GET", "extensions": {**scope.get("extensions", {}), "http.response.pathsend": {}}}
        answering = asyncio.ensure_future(self.app(as_get, receive, send_without_body))
        try:
            await answering
        except asyncio.CancelledError:
            if not answered:
                raise


def allowed_methods(scope: Scope) -> str:
    """The methods of a path, in alphabetical order; empty where there is no such path."""
    outside = {**scope, "root_path": scope.get("app_root_path", scope.get("root_path", ""))}  # of a folder of files
    routes: Iterable[BaseRoute] = scope["app"].routes
    methods = {
        method
        for method in _METHODS
        for route in routes
        # A folder of files (`Mount`) is read only.
        if (method == "GET" or not isinstance(route, Mount))
        and route.matches({**outside, "method": method})[0] is Match.FULL
    }
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


def install(app: FastAPI) -> None:
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
