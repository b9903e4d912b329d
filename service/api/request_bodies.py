"""Request bodies of the REST API: their media type, their size, and how much JSON holds, checked before any parser.

A type that a form, or a page of another site, can send without a preflight request is never read as JSON. A client that
stops in the middle is not waited for: its connection may be gone without notice, and what the request holds, an
Idempotency-Key for one, must become free for its next attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from pydantic import JsonValue
from starlette.requests import Request
from starlette.types import Message, Receive

from service.api.body_errors import BODY_TIMEOUT_S, stalled, too_large
from service.api.json_values import MOST_JSON_BYTES, check_json, parse_json
from service.registry.errors import UnsupportedFormat

_FORM_OVERHEAD_BYTES = 1024**2
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_RAW, _FORM = "application/octet-stream", "multipart/form-data"
_UNTYPED = "/v2/"  # clients of that protocol send no type


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
    if request.method not in _BODY_METHODS:
        return request
    declared = request.headers.get("content-length", "0")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = _RAW not in documented and not (kind == _FORM and _FORM in documented)
    if is_json and (declared != "0" or "transfer-encoding" in request.headers):
        _check_type(request.url.path, kind)
    limit = MOST_JSON_BYTES if is_json else _limit(request, files=1 if _RAW in documented else 2)
    request = limited(request, limit)
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
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if not kind and path.startswith(_UNTYPED):
        return
    found = f"found {kind[:100]!r}" if kind else "the body has no type"
    raise UnsupportedFormat("unsupported_media_type", f"{found}; send the header 'Content-Type: application/json'")


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
