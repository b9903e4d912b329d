"""The route class of pages: what a browser sends is a short form, counted before anything parses it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.api.request_bodies import limited
from service.registry.errors import UnsupportedFormat
from service.web.paths import SIGN_IN

#: A parser takes 0.7 µs for each byte of a hostile form, on the event loop.
MAX_FORM_BYTES = 64 * 1024
#: For who has no key yet.
MAX_SIGN_IN_BYTES = 8 * 1024
#: Forms with files, whose handlers count them on their way.
_WITH_FILES = frozenset({"/new", "/models/{ref}/try"})
_FORM = "application/x-www-form-urlencoded"
#: Its parser takes 0.1 s for 60 kB of parameters.
_MAX_TYPE_CHARACTERS = 100


class PageRoute(APIRoute):
    """A route that refuses every body but a short form; those with files limit themselves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the limit; called by FastAPI when the route is made."""
        handle = super().get_route_handler()
        if self.path in _WITH_FILES:
            return handle
        max_bytes = MAX_SIGN_IN_BYTES if self.path == SIGN_IN else MAX_FORM_BYTES

        async def handle_form(request: Request) -> Response:
            kind = request.headers.get("content-type", _FORM)
            is_form = kind.partition(";")[0].strip().lower() == _FORM and len(kind) <= _MAX_TYPE_CHARACTERS
            if request.method == "POST" and not is_form:
                found = repr(kind[:_MAX_TYPE_CHARACTERS])
                raise UnsupportedFormat("unsupported_media_type", f"found {found}; a page takes {_FORM}")
            return await handle(limited(request, max_bytes))

        return handle_form
