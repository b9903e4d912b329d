"""Sessions: an opaque id in a browser's cookie that stands for the key that its user has entered.

The database holds a digest of the id, and the key under a pad that only the id makes. Neither gives away the id or the
key, every API process can open a session, and a session ends by itself with the key.

The cookie counts for pages only. Under `/v1` and `/v2` a key must be sent, as clients do; what a page's script asks of
the API it asks under `/session`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Mapping, Set
from contextlib import suppress
from functools import partial
from urllib.parse import quote
from weakref import WeakValueDictionary

from fastapi.sse import format_sse_event
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.plumbing.services import Services
from service.http.access import SAFE_METHODS, answer_until, headers_of, is_open
from service.http.access_log import SCOPE_KEY
from service.http.problems import problem, problem_of
from service.ipc.channel import TokenBucket
from service.registry.errors import Overloaded, RegistryError, Unavailable

#: A page's script asks the API here, with its session's cookie: `/session/v1/…` is `/v1/…` with the session's key.
SESSION = "/session"
STATIC = "/static/"
SIGN_IN = "/sign-in"

COOKIE = "fedlas-session"
_SESSION_ID = re.compile(rf"(?:\A|;)[ \t]*{COOKIE}=([^;]*)".encode())
_ID_BYTES = 32
#: Wrong keys that are answered with a page: in a second, and at once. A right key opens a session whatever others try.
_WRONG_PER_SECOND = 1.0
_MAX_WRONG_AT_ONCE = 10
#: A session that ended in another process, by its time, or with its key, is looked for so often.
SESSION_EVERY_S = 30.0
_SIGNED_OUT = format_sse_event(event="signed-out", data_str="the session has ended")

_OF_THE_API = frozenset(
    {
        "v1",
        "v2",
        "docs",
        "redoc",
        "openapi.json",
        "openapi-v2.json",
        "healthz",
        "readyz",
        "metrics",
        "static-offline-docs",
    }
)


def is_page(path: str) -> bool:
    """True where a cookie counts for this path.

    >>> is_page("/jobs"), is_page("/session/v1/jobs"), is_page("/v1/jobs"), is_page("/v1")
    (True, True, False, False)
    """
    return path.split("/", 2)[1] not in _OF_THE_API


def is_api_of_session(path: str) -> bool:
    """True for a request to the API from a page.

    >>> is_api_of_session("/session/v1/jobs"), is_api_of_session("/sessions")
    (True, False)
    """
    return path.startswith((f"{SESSION}/v1/", f"{SESSION}/v2/"))


def safe_return(path: str) -> str:
    """The page to go to after signing in: a path of ours, whatever the link says.

    >>> safe_return("/jobs?status=failed"), safe_return("//evil.example"), safe_return("https://evil.example")
    ('/jobs?status=failed', '/', '/')
    """
    inside = path.startswith("/") and not path.startswith(("//", "/\\", SIGN_IN)) and path.isprintable()
    return path if inside else "/"


def origin_of(request: Request, other_hosts: Set[str]) -> str:
    """The origin of a request's page.

    A proxy is not asked: the browser itself names the page that it comes from, in `Origin` with a form and in `Referer`
    with a link. Without either, as where an address was typed, the origin is that of this connection.

    Args:
        other_hosts: names under which browsers reach this service, beside the one that `Host` says.
    """
    netloc = request.url.netloc
    for name in ("origin", "referer"):
        scheme, _, rest = request.headers.get(name, "").partition("://")
        place = rest.partition("/")[0]
        if scheme in ("http", "https") and (place == netloc or place in other_hosts):
            return f"{scheme}://{place}"
    return f"{request.url.scheme}://{netloc}"


class Sessions:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._keys = services.keys
        self._wrong = TokenBucket(per_second=_WRONG_PER_SECOND, most=_MAX_WRONG_AT_ONCE)
        self._ends: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self.seconds = services.settings.session_hours * 3600
        #: Names under which browsers reach this service, beside the one that its `Host` says.
        self.other_hosts = services.settings.allowed_hosts

    @property
    def needed(self) -> bool:
        """True where pages want a session: without keys every client of this machine is admitted."""
        return self._keys.needed

    async def open(self, key: str) -> str | None:
        """Open a session with a key, and return its id; None where this is no key of the service.

        Raises Overloaded for a wrong key where too many have come.
        """
        if self._keys.grant_of(key.encode()) is None:
            if self._wrong.take(0) > 0:
                raise Overloaded(
                    "overloaded", "too many wrong keys are being entered; wait, then try again", retry_after=1
                )
            self._wrong.take(1)
            return None
        session_id = secrets.token_urlsafe(_ID_BYTES)
        sealed = _sealed(key.encode(), session_id).hex()
        await self._services.write(
            lambda unit: unit.browser_sessions.open(_digest(session_id), sealed, seconds=self.seconds)
        )
        return session_id

    async def key_of(self, session_id: str) -> bytes | None:
        """The key that a session was opened with; None where it has expired, was ended, or its key is one no more."""
        sealed = await self._services.read(lambda unit: unit.browser_sessions.sealed_key_of(_digest(session_id)))
        if sealed is None:
            return None
        key = _sealed(bytes.fromhex(sealed), session_id)
        return None if self._keys.grant_of(key) is None else key

    async def end(self, session_id: str) -> None:
        """End a session, and the streams that were opened with it here."""
        await self._services.write(lambda unit: unit.browser_sessions.end(_digest(session_id)))
        if (ended := self._ends.get(session_id)) is not None:
            ended.set()

    async def await_end(self, session_id: str) -> None:
        """Return when the session has ended: at once after signing out here, else within `SESSION_EVERY_S`."""
        ended = self._ends.setdefault(session_id, asyncio.Event())
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), SESSION_EVERY_S)
            with suppress(Unavailable):  # the database is away: looked for again later
                if await self.key_of(session_id) is None:
                    return


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


def _sealed(key: bytes, session_id: str) -> bytes:
    """The key under a pad of the session, or the key again of what is under it; an id is random and seals one key."""
    pad = hashlib.shake_256(b"key of a session:" + session_id.encode()).digest(len(key))
    return bytes(one ^ other for one, other in zip(key, pad, strict=True))


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
        if by_session:
            ending = partial(self._sessions.await_end, session_id_of(scope))
            await answer_until(app, admitted, receive, send, ending=ending, last=_SIGNED_OUT)
        else:
            await app(admitted, receive, send)

    async def _admit(self, scope: Scope) -> tuple[Response | None, Scope]:
        """Response that refuses the request, if any does, and the request with its key."""
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
        """True where a page of ours sends: another port of the same host is another's."""
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
    match = _SESSION_ID.search(b";".join(value for name, value in scope["headers"] if name == b"cookie"))
    return "" if match is None else match[1].decode("latin-1").strip()


def _sign_in(scope: Scope) -> Response:
    """Where a key is entered; for a script, or for what changes something, the reason."""
    headers = headers_of(scope)
    asks_for_page = b"hx-request" not in headers and b"text/html" in headers.get(b"accept", b"")
    if scope["method"] in ("GET", "HEAD") and asks_for_page:  # scripts ask for no `text/html`
        query = scope["query_string"].decode("latin-1")
        came_from = scope["path"] + (f"?{query}" if query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(came_from, safe='')}", 303, {"Cache-Control": "no-store"})
    detail = f"there is no session, or it has ended; enter a key at {SIGN_IN}, then do this again"
    return problem(401, "unauthorized", detail, path=scope["path"], headers={"WWW-Authenticate": "Bearer"})


def _without_default_port(place: str) -> str:
    return place.removesuffix(":80").removesuffix(":443")


def _without_prefix(scope: Scope) -> Scope:
    return {
        **_with_header(scope, b"x-request-id", scope[SCOPE_KEY].encode()),
        "path": scope["path"].removeprefix(SESSION),
        "raw_path": scope.get("raw_path", b"").removeprefix(SESSION.encode()),
    }


def _with_header(scope: Scope, name: bytes, value: bytes) -> Scope:
    """The request with this header alone of its name, and without what was remembered of its headers."""
    headers = [*(item for item in scope["headers"] if item[0] != name), (name, value)]
    return {**{key: part for key, part in scope.items() if key != "fedlas.headers"}, "headers": headers}
