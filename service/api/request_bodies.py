"""Request bodies of the REST API: their media type, their size, and how much JSON holds, checked before any parser.

What is wrong with a JSON body becomes an error for each key and each item, and each takes some 10 µs to make. So there
may be no more of either than what a request needs. A type that a form, or a page of another site, can send without a
preflight request is never read as JSON.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import headers_of
from service.api.problems import problem_of
from service.registry.errors import InvalidRequest, RegistryError, Stalled, TooLarge, UnsupportedFormat
from service.settings import ServiceSettings

#: A job has some 50 fields and as many metadata of 512 characters; costs of 300 classes are 200 KB.
MOST_JSON_BYTES = 256 * 1024
#: `max_error` and `coverage` may have a key for each class.
MOST_KEYS = 2_000
#: Values in lists; only the costs of a decision have more than a few.
MOST_ITEMS = 100_000
#: As nginx's `client_body_timeout`.
BODY_TIMEOUT_S = 60.0
_MOST_PARAMETERS = 64
_FORM_OVERHEAD_BYTES = 1024**2
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
#: A file, as it is or as a part of a form.
_FILE_PATHS = frozenset({"/v1/datasets", "/v1/models", "/v1/calibrators"})
_PIECES = "/v1/uploads/"
#: JSON, or JSON and both files as parts of a form.
_JOBS = "/v1/jobs"
_FORM = "multipart/form-data"
_UNTYPED = "/v2/"  # clients of that protocol send no type


def too_large(limit: int) -> TooLarge:
    """The error of a body beyond the limit."""
    return TooLarge("too_large", f"the body is larger than the limit of {limit} bytes")


def stalled() -> Stalled:
    """The error of a client that stops in the middle of its body."""
    detail = f"nothing arrived for {BODY_TIMEOUT_S:.0f} s in the middle of the body; send the request again"
    return Stalled("body_stalled", detail)


def check_json(content: bytes, *, field: str | None = None) -> None:
    """Raise TooLarge for JSON that is longer, or holds more, than any request of these resources needs."""
    if len(content) > MOST_JSON_BYTES:
        message = f"JSON of {len(content)} bytes; at most {MOST_JSON_BYTES} are read here"
        raise TooLarge("too_large", message, field=field)
    keys, items = content.count(b":"), content.count(b",")
    if keys > MOST_KEYS or items > MOST_ITEMS:
        found = f"JSON with about {keys} keys and {items} values; at most {MOST_KEYS} and {MOST_ITEMS} are read here"
        raise TooLarge("too_many_values", found, field=field)


class BodyMiddleware:
    """Checks bodies. JSON, which is small, is received whole; files pass through and are counted on their way.

    A client that stops in the middle is not waited for: its connection may be gone without notice, and what the request
    holds, an Idempotency-Key for one, must become free for its next attempt.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self._max_upload_bytes = settings.max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                receive = await self._checked(scope, receive)
            except RegistryError as error:
                await problem_of(scope["path"], error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        path, headers, limit = scope["path"], headers_of(scope), self._limit(scope["path"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        declared = headers.get(b"content-length", b"0")
        is_json = scope["method"] in _BODY_METHODS and not _is_file(path)
        if is_json and (declared != b"0" or b"transfer-encoding" in headers):
            _check_type(path, kind)
        if declared.isdigit() and int(declared) > limit:
            raise too_large(limit)
        _check_query(scope["query_string"])
        receive = _counted(receive, limit)
        return await _received(receive) if is_json and kind != _FORM else receive

    def _limit(self, path: str) -> int:
        if _is_file(path):
            return self._max_upload_bytes + _FORM_OVERHEAD_BYTES
        if path == _JOBS:
            return 2 * self._max_upload_bytes + _FORM_OVERHEAD_BYTES
        return MOST_JSON_BYTES


def _is_file(path: str) -> bool:
    return path in _FILE_PATHS or path.startswith(_PIECES)


def _check_type(path: str, kind: str) -> None:
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if (not kind and path.startswith(_UNTYPED)) or (kind == _FORM and path == _JOBS):
        return
    found = f"found {kind[:100]!r}" if kind else "the body has no type"
    raise UnsupportedFormat("unsupported_media_type", f"{found}; send the header 'Content-Type: application/json'")


def _check_query(query: bytes) -> None:
    parameters = query.count(b"&") + 1
    if parameters > _MOST_PARAMETERS:
        message = f"the query string has {parameters} parameters; at most {_MOST_PARAMETERS}"
        raise InvalidRequest("too_many_parameters", message)


def _counted(receive: Receive, limit: int) -> Receive:
    """Receives until the body is whole, or raises TooLarge or Stalled; then waits for the client to disconnect."""
    received, whole = 0, False

    async def receive_counted() -> Message:
        nonlocal received, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                message = await receive()
        except TimeoutError:
            raise stalled() from None
        whole = not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large(limit)
        return message

    return receive_counted


async def _received(receive: Receive) -> Receive:
    """Receives the body once more, in one piece, and then what comes after it."""
    pieces: list[bytes] = []
    size = 0
    message: Message = {"more_body": True}
    while message.get("more_body", False) and size <= MOST_JSON_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":  # the reader of the body raises
            break
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
    content = b"".join(pieces)
    check_json(content)
    waiting = [message if message["type"] == "http.disconnect" else {"type": "http.request", "body": content}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
