"""Request bodies of the REST API: their media type, their size, and how much JSON holds, checked before any parser.

A type that a form, or a page of another site, can send without a preflight request is never read as JSON. A client that
stops in the middle is not waited for: its connection may be gone without notice, and what the request holds, an
Idempotency-Key for one, must become free for its next attempt. JSON that is wrong becomes an error for each key and
each item, and each takes some 10 µs to make: there may be no more of either than what a request needs.
"""

from __future__ import annotations

import asyncio
import csv
import io
import sys
from collections.abc import Collection

from pydantic import JsonValue
from pydantic_core import from_json
from starlette.requests import Request
from starlette.types import Message, Receive

from fedlas.contract.base import JsonObject, objection
from service.api.plumbing.problems import BODY_TIMEOUT_S, stalled, too_large
from service.registry.errors import InvalidRequest, TooLarge, UnsupportedFormat

#: A job has some 50 fields and as many metadata of 512 characters; costs of 300 classes are 200 KB.
MAX_JSON_BYTES = 256 * 1024
#: `max_error` and `coverage` may have a key for each class.
MAX_KEYS = 2_000
#: Values in lists; only the costs of a decision have more than a few.
MAX_ITEMS = 100_000
#: Integers of JSON may be larger than any float.
_MAX_NUMBER = sys.float_info.max


def parse_json(content: str | bytes, field: str) -> JsonValue:
    """The value; raises InvalidRequest, with the field that it came in."""
    try:
        value: JsonValue = from_json(content.encode() if isinstance(content, str) else content)
    except ValueError as error:
        raise InvalidRequest("invalid_json", f"{field} is not valid JSON: {error}", field=field) from error
    return value


def parse_padding(text: str) -> JsonObject:
    """Parse and check what fills ragged lists; raises InvalidRequest."""
    padding = parse_json(text, "padding")
    if not isinstance(padding, dict):
        raise InvalidRequest("invalid_padding", "padding must be a JSON object of input → number", field="padding")
    for name, value in padding.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not -_MAX_NUMBER <= value <= _MAX_NUMBER:
            message = f"padding of input {name[:100]!r} must be a finite number"
            raise InvalidRequest("invalid_padding", message, field="padding")
    return padding


def check_json(content: bytes, *, field: str | None = None) -> None:
    """Raise TooLarge for JSON that is longer, or holds more, than any request of these resources needs."""
    if len(content) > MAX_JSON_BYTES:
        message = f"JSON of {len(content)} bytes; at most {MAX_JSON_BYTES} are read here"
        raise TooLarge("too_large", message, field=field)
    keys, items = content.count(b":"), content.count(b",")
    if keys > MAX_KEYS or items > MAX_ITEMS:
        found = f"JSON with about {keys} keys and {items} values; at most {MAX_KEYS} and {MAX_ITEMS} are read here"
        raise TooLarge("too_many_values", found, field=field)


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


_SHOWN = 200


def parse_names(text: str, field: str, *, least: int) -> list[str]:
    """The names without spaces around them, at least so many, none empty and none twice; raises InvalidRequest.

    >>> parse_names('cat, dog', "class_names", least=2), parse_names('"a, b",c', "class_names", least=2)
    (['cat', 'dog'], ['a, b', 'c'])
    >>> parse_names('["a, b", "c"]', "class_names", least=2)
    ['a, b', 'c']
    """
    names = _listed(text, field)
    if len(names) < least or not all(names) or len(set(names)) != len(names):
        wanted = "at least two different, non-empty names" if least == 2 else "different, non-empty names"
        raise _refused(field, f"must be {wanted}; found {str(names[:10])[:_SHOWN]}")
    return names


def _listed(text: str, field: str) -> list[str]:
    if text.lstrip().startswith("["):
        try:
            return [_name(item, field) for item in from_json(text)]
        except ValueError as error:
            if text.lstrip()[1:].lstrip().startswith('"'):  # else it may be names in brackets: "[a],b"
                raise _refused(field, f"looks like a JSON list and is none: {str(error)[:_SHOWN]}") from error
    rows = csv.reader(io.StringIO(text.strip(), newline=""), skipinitialspace=True, strict=True)
    try:
        names, *more = list(rows) or [[]]
    except csv.Error:  # no quoting, but names that begin with a quote
        names, more = text.split(","), []
    if more:
        raise _refused(field, f"must stand on one line; found a second one, {str(more[0][:5])[:_SHOWN]}")
    return [name.strip() for name in names]


def _name(item: JsonValue, field: str) -> str:
    """The name; whole numbers may stand for themselves."""
    if isinstance(item, bool) or not isinstance(item, str | int):
        raise _refused(field, f"must be names; found {str(item)[:_SHOWN]!r} in the list")
    if found := objection(str(item)):
        raise _refused(field, f"must be names that can be kept; one {found}")
    return str(item).strip()


def _refused(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"invalid_{field}", f"{field} {what}", field=field)
