"""Request bodies of the REST API: their media type, their size, and how much JSON holds, checked before any parser.

A type that a form, or a page of another site, can send without a preflight request is never read as JSON. A client that
stops in the middle is not waited for: its connection may be gone without notice, and what the request holds, an
Idempotency-Key for one, must become free for its next attempt. JSON that is wrong becomes an error for each key and
each item, and each takes some 10 µs to make: there may be no more of either than what a request needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from pydantic import JsonValue
from pydantic_core import from_json
from starlette.requests import Request
from starlette.types import Message, Receive

from service.http.problems import BODY_TIMEOUT_S, stalled, too_large
from service.registry.errors import InvalidRequest, TooLarge, UnsupportedFormat

#: A job has some 50 fields and as many metadata of 512 characters; costs of 300 classes are 200 KB.
MAX_JSON_BYTES = 256 * 1024
#: `max_error` and `coverage` may have a key for each class.
MAX_KEYS = 2_000
#: Values in lists; only the costs of a decision have more than a few.
MAX_ITEMS = 100_000


def parse_json(content: str | bytes, field: str) -> JsonValue:
    """The value; raises InvalidRequest, with the field that it came in."""
    try:
        value: JsonValue = from_json(content.encode() if isinstance(content, str) else content)
    except ValueError as error:
        raise InvalidRequest("invalid_json", f"{field} is not valid JSON: {error}", field=field) from error
    return value


def check_json(content: bytes, *, field: str | None = None) -> None:
    """Raise TooLarge for JSON that is longer, or holds more, than any request of these resources needs."""
    if len(content) > MAX_JSON_BYTES:
        message = f"JSON of {len(content)} bytes; at most {MAX_JSON_BYTES} are read here"
        raise TooLarge("too_large", message, field=field)
    keys, items = content.count(b":"), content.count(b",")
    if keys > MAX_KEYS or items > MAX_ITEMS:
        message = f"JSON with about {keys} keys and {items} values; at most {MAX_KEYS} and {MAX_ITEMS} are read here"
        raise TooLarge("too_many_values", message, field=field)


_FORM_OVERHEAD_BYTES = 1024**2
_RAW = "application/octet-stream"
_FORM = "multipart/form-data"


class CheckedRequest(Request):
    """A request whose JSON is parsed as that of parts and parameters is."""

    async def json(self) -> JsonValue:
        """The body as JSON; raises InvalidRequest."""
        return parse_json(await self.body(), "body")


async def checked(request: Request, documented: Collection[str]) -> Request:
    """The request with a body that is checked. JSON is received whole; files are counted on their way.

    Args:
        documented: the media types that the route's document names, where it names any: it takes a file in any type, a
            form with two files beside JSON, or only JSON.

    Raises:
        UnsupportedFormat: JSON is needed, and the type is another one.
        TooLarge: the body, or what its JSON holds; Stalled: a part of it does not come. For a file, its reader raises.
    """
    if request.method not in ("POST", "PUT", "PATCH", "DELETE"):
        return request
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = _RAW not in documented and not (kind == _FORM and _FORM in documented)
    if is_json and (request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers):
        _check_type(request.url.path, kind)
    request = limited(request, MAX_JSON_BYTES if is_json else _limit(request, files=1 if _RAW in documented else 2))
    if is_json:
        check_json(await request.body())
    return request


def limited(request: Request, limit: int) -> Request:
    """The request with a body of so many bytes at most; raises TooLarge where its head declares more."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    return CheckedRequest(request.scope, _counted(request.receive, limit))


def _limit(request: Request, *, files: int) -> int:
    most: int = request.app.state.services.settings.max_upload_bytes
    return files * most + _FORM_OVERHEAD_BYTES


def _check_type(path: str, kind: str) -> None:
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json and (kind or not path.startswith("/v2/")):  # clients of that protocol send no type
        reason = f"found {kind[:100]!r}" if kind else "the body has no type"
        raise UnsupportedFormat("unsupported_media_type", f"{reason}; send the header 'Content-Type: application/json'")


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
