"""Which methods a path has: `OPTIONS` answers them, and 405 names them, all of them.

The framework's router asks its routes one by one, and answers for the first that knows the path.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


class AllowedMethods:
    """ASGI middleware around the router, which is behind `HeadAsGet`: where GET is answered, HEAD is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and (allowed := _allowed(scope)):
            await Response(status_code=204, headers={"Allow": allowed})(scope, receive, send)
            return

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                MutableHeaders(scope=message)["Allow"] = _allowed(scope)
            await send(message)

        await self.app(scope, receive, send_allowed)


def _allowed(scope: Scope) -> str:
    """The methods of a path, in alphabetical order; nothing where there is no such path."""
    found = {method for method in _METHODS if _is_answered(method, scope)}
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
