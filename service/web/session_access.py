"""Access by session: a request for a page with a session's cookie is one with that session's key.

The cookie counts for pages only. Under `/v1` and `/v2` a key must be sent, as clients do; what a page's script asks of
the API it asks under `/session`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote

from fastapi.sse import format_sse_event
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import SAFE_METHODS, headers_of, is_open
from service.api.problems import problem, problem_of
from service.api.request_ids import SCOPE_KEY
from service.registry.errors import RegistryError
from service.web.paths import SESSION, SIGN_IN, is_api_of_session, is_page
from service.web.sessions import Sessions

COOKIE = "fedlas-session"
_SESSION_ID = re.compile(rf"(?:\A|;)[ \t]*{COOKIE}=([^;]*)".encode())
_SIGNED_OUT = format_sse_event(event="signed-out", data_str="the session has ended")


class SessionMiddleware:
    """Puts the key of a page's session into the request, and sends who has none to the page where one is entered."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self.app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_page(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            refusal, admitted = await self._admit(scope)
        except RegistryError as error:  # the database is away
            refusal, admitted = problem_of(scope["path"], error), scope
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        app, by_session = self.app, admitted is not scope
        if is_api_of_session(scope["path"]):
            app, admitted = scope["app"].state.front, _without_prefix(admitted)
        if by_session and b"text/event-stream" in headers_of(scope).get(b"accept", b""):
            await self._stream(app, admitted, receive, send)
        else:
            await app(admitted, receive, send)

    async def _stream(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a stream of events that ends with the session."""
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        answering = asyncio.ensure_future(app(scope, receive, send_noting))
        ending = asyncio.ensure_future(self._sessions.await_end(session_id_of(scope)))
        try:
            await asyncio.wait((answering, ending), return_when=asyncio.FIRST_COMPLETED)
            if answering.done() or not started:
                await answering
                return
            answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering
            await send({"type": "http.response.body", "body": _SIGNED_OUT})
        finally:
            answering.cancel()
            ending.cancel()

    async def _admit(self, scope: Scope) -> tuple[Response | None, Scope]:
        """What refuses the request, if anything does, and the request with its key."""
        headers = headers_of(scope)
        if not self._sessions.needed or is_open(scope["path"]) or b"authorization" in headers:
            return None, scope
        key = await self._sessions.key_of(session_id_of(scope)) if session_id_of(scope) else None
        if key is None:
            return _sign_in(scope), scope
        if scope["method"] not in SAFE_METHODS and not self._is_ours(headers):
            detail = "only this service's own pages may send this, and their requests say where they come from (Origin)"
            return problem(403, "foreign_origin", detail, path=scope["path"]), scope
        return None, _with_header(scope, b"authorization", b"Bearer " + key)

    def _is_ours(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a page of ours sends: another port of the same host is another's."""
        if (origin := headers.get(b"origin")) is None:
            return headers.get(b"sec-fetch-site") in (b"same-origin", b"none")
        place = origin.decode("latin-1").lower().partition("://")[2]
        host = headers.get(b"host", b"").decode("latin-1").lower()
        return _without_default_port(place) == _without_default_port(host) or place in self._sessions.other_hosts


def session_id_of(scope: Scope) -> str:
    """The session's id in the request's cookies; empty without one.

    They are taken apart by hand: a name has cookies of all its ports, and the standard library's parser gives up at the
    first that it cannot read.
    """
    lines = b";".join(value for name, value in scope["headers"] if name == b"cookie")
    found = _SESSION_ID.search(lines)
    return "" if found is None else found[1].decode("latin-1").strip()


def _sign_in(scope: Scope) -> Response:
    """Where a key is entered; for a script, or for what changes something, the reason."""
    if scope["method"] in ("GET", "HEAD") and _wants_page(scope):
        query = scope["query_string"].decode("latin-1")
        came_from = scope["path"] + (f"?{query}" if query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(came_from, safe='')}", 303, {"Cache-Control": "no-store"})
    detail = f"there is no session, or it has ended; enter a key at {SIGN_IN}, then do this again"
    return problem(401, "unauthorized", detail, path=scope["path"], headers={"WWW-Authenticate": "Bearer"})


def _wants_page(scope: Scope) -> bool:
    """Whether a browser goes to a page, or follows a link to a file; scripts ask for no `text/html`."""
    headers = headers_of(scope)
    return b"hx-request" not in headers and b"text/html" in headers.get(b"accept", b"")


def _without_default_port(place: str) -> str:
    return place.removesuffix(":80").removesuffix(":443")


def _without_prefix(scope: Scope) -> Scope:
    path = scope["path"].removeprefix(SESSION)
    raw_path = scope.get("raw_path", b"").removeprefix(SESSION.encode())
    request_id = scope[SCOPE_KEY].encode()
    return {**_with_header(scope, b"x-request-id", request_id), "path": path, "raw_path": raw_path}


def _with_header(scope: Scope, name: bytes, value: bytes) -> Scope:
    """The request with this header alone of its name, and without what was remembered of its headers."""
    headers = [*(item for item in scope["headers"] if item[0] != name), (name, value)]
    return {**{key: part for key, part in scope.items() if key != "fedlas.headers"}, "headers": headers}
