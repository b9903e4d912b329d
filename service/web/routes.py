"""The route class of pages: what a browser sends is a short form, counted before anything parses it.

Calls of our own API within the process: what a form asks for is done, checked and refused as for any client.

Lists of records on pages: some rows, newest first, with the paths to the newest and to older ones.

Awaited records: a part of a page asks for one, and is answered once there is something to draw.

A part that is answered `204` stays as it is, and asks again by itself: nothing is drawn for who only waits.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import JsonValue
from starlette.types import Message, Receive, Scope

from service.api.plumbing.access_log import SCOPE_KEY
from service.api.plumbing.problems import Problem
from service.api.plumbing.request_bodies import limited
from service.api.plumbing.responses import Record
from service.registry.contract import FINAL
from service.registry.errors import UnsupportedFormat
from service.web.sessions import SIGN_IN

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


#: What the API is told of the browser's request; everything else is the call's own.
_PASSED_ON = frozenset({b"authorization", b"host", b"origin", b"sec-fetch-site"})
_OF_THE_BODY = frozenset({b"content-type", b"content-length", b"transfer-encoding"})


@dataclass
class ApiAnswer:
    """The answer of the API."""

    status: int = 500
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @property
    def failed(self) -> bool:
        """Whether the API has refused."""
        return self.status >= 400

    @property
    def problem(self) -> Problem:
        """Why it has refused."""
        return Problem.model_validate_json(self.body)

    def json(self) -> JsonValue:
        """The answer's content."""
        content: JsonValue = json.loads(self.body)
        return content

    def record_id(self) -> str:
        """The id of the record that was made."""
        return self.headers[b"location"].decode("latin-1").rpartition("/")[2]


async def call_api(
    request: Request,
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    content: JsonValue = None,
    headers: Mapping[str, str] | None = None,
    pass_body_on: bool = False,
) -> ApiAnswer:
    """Ask the API with the key of a page's request.

    Args:
        path: from `/v1` on; not percent-encoded.
        content: the body, as JSON.
        pass_body_on: send the body of the page's own request, as it comes in.
    """
    answer = ApiAnswer()
    body = b"" if content is None else json.dumps(content).encode()
    kept = _PASSED_ON | (_OF_THE_BODY if pass_body_on else set())
    sent = [(name, value) for name, value in request.scope["headers"] if name in kept]
    sent += [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    sent += [(b"accept", b"application/json"), (b"x-request-id", request.scope[SCOPE_KEY].encode())]
    if content is not None:
        sent += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope: Scope = {
        **{name: value for name, value in request.scope.items() if name in _OF_THE_CONNECTION},
        "method": method,
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": urlencode(query or {}).encode(),
        "headers": sent,
        "extensions": {},
    }

    async def take(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], dict(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    receive = request.receive if pass_body_on else _receiving(body, request)
    await request.app.state.front(scope, receive, take)
    return answer


_OF_THE_CONNECTION = frozenset({"type", "asgi", "http_version", "scheme", "client", "server", "root_path", "state"})


def _receiving(body: bytes, request: Request) -> Receive:
    """The body, and after it what else the browser's connection tells: that it was closed."""
    messages = _messages(body, request)

    async def receive() -> Message:
        return await anext(messages)

    return receive


async def _messages(body: bytes, request: Request) -> AsyncIterator[Message]:
    yield {"type": "http.request", "body": body, "more_body": False}
    while True:
        yield await request.receive()


T = TypeVar("T")

#: Records on one page.
ROWS = 25


@dataclass(frozen=True)
class ListPage(Generic[T]):
    """Some rows of a list; the paths keep its filters, and are None where they would lead nowhere."""

    rows: tuple[T, ...]
    newer: str | None
    older: str | None


def list_page(request: Request, rows: Iterable[T], key: Callable[[T], str]) -> ListPage[T]:
    """The first `ROWS` of these; there must be one more among them where more follow.

    Args:
        key: of a row: the page after it begins with `?after=` this.
    """
    found = tuple(islice(rows, ROWS + 1))
    shown = found[:ROWS]
    newer = _path(request) if request.query_params.get("after") else None
    older = _path(request, key(shown[-1])) if len(found) > ROWS else None
    return ListPage(shown, newer, older)


def _path(request: Request, after: str | None = None) -> str:
    kept = {name: value for name, value in request.query_params.items() if value and name != "after"}
    query = urlencode(kept if after is None else {**kept, "after": after})
    return f"{request.url.path}?{query}" if query else request.url.path


#: How long an answer is held: less than the time after which a part asks again (`hx-trigger`).
WAIT_S = 20.0


def is_news(record: Record | None, *, told: bool) -> bool:
    """Whether the record is final, gone, or kept from going on, or `told` is that it was and it does go on."""
    return told or record is None or record.status in FINAL or record.waiting_for is not None
