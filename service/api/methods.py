"""HTTP methods of paths: `OPTIONS` and 405 name all of them, and `HEAD` is answered wherever `GET` is.

The framework's router asks its routes one by one, and refuses for the first that knows the path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

        extensions = {**scope.get("extensions", {}), "http.response.pathsend": {}}
        as_get = {**scope, "method": "GET", "extensions": extensions}
        answering = asyncio.ensure_future(self.app(as_get, receive, send_without_body))
        try:
            await answering
        except asyncio.CancelledError:
            if not answered:
                raise


def allowed_methods(scope: Scope) -> str:
    """The methods of a path, in alphabetical order; empty where there is no such path."""
    outside = {**scope, "root_path": scope.get("app_root_path", scope.get("root_path", ""))}  # of a folder of files
    found = {method for method in _METHODS if _is_answered(method, outside)}
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


def _is_answered(method: str, scope: Scope) -> bool:
    routes: Iterable[BaseRoute] = scope["app"].routes
    return any(
        route.matches({**scope, "method": method})[0] is Match.FULL
        for route in routes
        if method == "GET" or not isinstance(route, Mount)  # a folder of files, which are read only
    )
