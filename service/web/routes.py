"""The routes of pages: their class, the calls of our own API that their forms make, and lists of records.

What a browser sends is a short form, counted before anything parses it. What a form asks for is done, checked and
refused by the API, as for any client.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import httpx
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import JsonValue

from fedlas.contract.problems import Problem
from fedlas.contract.records import FINAL
from service.api.plumbing.request_bodies import limited
from service.api.plumbing.responses import Record
from service.http.access_log import SCOPE_KEY
from service.registry.errors import UnsupportedFormat
from service.web.rendering import see_other
from service.web.sessions import SIGN_IN

#: A parser takes 0.7 µs for each byte of a hostile form, on the event loop.
MAX_FORM_BYTES = 64 * 1024
#: For who has no key yet.
MAX_SIGN_IN_BYTES = 8 * 1024
#: Forms with files, whose handlers count them on their way.
_WITH_FILES = frozenset({"/new", "/calibrators/new", "/models/{ref}/try"})
_FORM = "application/x-www-form-urlencoded"
#: The parser of media types takes 0.1 s for 60 kB of parameters.
_MAX_TYPE_CHARACTERS = 100

#: Headers of the browser's request that go to the API; everything else is the call's own.
_PASSED_ON = frozenset({b"authorization", b"host", b"origin", b"sec-fetch-site"})

#: Records on one page.
ROWS = 25

#: How long an answer is held: less than the time after which a part asks again (`hx-trigger`).
WAIT_S = 20.0

T = TypeVar("T")


class PageRoute(APIRoute):
    """A route that refuses every body but a short form; those with files limit themselves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the limit; called by FastAPI when the route is made."""
        handle = super().get_route_handler()
        if self.path in _WITH_FILES:
            return handle

        async def handle_form(request: Request) -> Response:
            kind = request.headers.get("content-type", _FORM)
            is_form = kind.partition(";")[0].strip().lower() == _FORM and len(kind) <= _MAX_TYPE_CHARACTERS
            if request.method == "POST" and not is_form:
                shown = repr(kind[:_MAX_TYPE_CHARACTERS])
                raise UnsupportedFormat("unsupported_media_type", f"found {shown}; a page takes {_FORM}")
            return await handle(limited(request, MAX_SIGN_IN_BYTES if self.path == SIGN_IN else MAX_FORM_BYTES))

        return handle_form


async def call_api(
    request: Request,
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    content: JsonValue = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Ask the API in this process, with the key of a page's request; `path` is not percent-encoded, `content` JSON."""
    sent = [(name, value) for name, value in request.scope["headers"] if name in _PASSED_ON]
    own = {"Accept": "application/json", "X-Request-Id": request.scope[SCOPE_KEY], **(headers or {})}
    body = None
    if content is not None:
        own["Content-Type"] = "application/json"
        body = json.dumps(content).encode()  # httpx would raise for NaN, which the API refuses with a sentence
    sent += [(name.encode(), value.encode()) for name, value in own.items()]
    url = f"{request.url.scheme}://localhost{quote(path)}"
    asked = httpx.Request(method, url, params=query, content=body, headers=sent)
    answer = await httpx.ASGITransport(request.app.state.front).handle_async_request(asked)
    await answer.aread()
    return answer


def problem_in(answer: httpx.Response) -> Problem:
    return Problem.model_validate_json(answer.content)


async def acted(
    request: Request, method: str, path: str, then: str, again: Callable[[Problem], Awaitable[Response]]
) -> Response:
    """The answer to a form that the API does: the page to go to `then`, or its own page `again` with the refusal."""
    answer = await call_api(request, method, path)
    return await again(problem_in(answer)) if answer.is_error else see_other(then)


@dataclass(frozen=True)
class ListPage(Generic[T]):
    """Some rows of a list, newest first; the paths keep its filters, and are None where they would lead nowhere."""

    rows: tuple[T, ...]
    newer: str | None
    older: str | None


def list_page(request: Request, rows: Iterable[T], key: Callable[[T], str]) -> ListPage[T]:
    """The first `ROWS` rows; one more shows that more follow, on a page after the `key` of the last one."""
    first_rows = tuple(islice(rows, ROWS + 1))
    shown = first_rows[:ROWS]
    newer = _path(request) if request.query_params.get("after") else None
    return ListPage(shown, newer, _path(request, key(shown[-1])) if len(first_rows) > ROWS else None)


def _path(request: Request, after: str | None = None) -> str:
    kept = {name: value for name, value in request.query_params.items() if value and name != "after"}
    query = urlencode(kept if after is None else {**kept, "after": after})
    return f"{request.url.path}?{query}" if query else request.url.path


def is_news(record: Record | None, *, told: bool) -> bool:
    """True where a part of a page that waits for a record is drawn: else it is answered `204`, and asks again.

    True for a final or lost record, for one that is kept waiting, and for one that goes on after it was (`told`).
    """
    return told or record is None or record.status in FINAL or record.waiting_for is not None
