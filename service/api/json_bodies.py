"""Bodies, forms and query strings of the JSON resources are counted before anything is made of them; plain ASGI.

What is wrong with a body becomes an error for each key and each item, and each takes some 10 µs to make. So there may
be no more of either than what a request needs.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import told
from service.registry.errors import InvalidRequest, RegistryError, TooLarge

#: A job has some 50 fields and as many metadata of 512 characters; costs of 300 classes are 200 KB.
MOST_JSON_BYTES = 256 * 1024
#: `max_error` and `coverage` may have a key for each class.
MOST_KEYS = 2_000
#: Values in lists; in nothing but the costs of a decision there are more than a few.
MOST_ITEMS = 100_000
_MOST_PARAMETERS = 64
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


def check_json(content: bytes, *, field: str | None = None) -> None:
    """Raise TooLarge for JSON that is longer, or holds more, than any request of these resources needs."""
    if len(content) > MOST_JSON_BYTES:
        message = f"JSON of {len(content)} bytes; at most {MOST_JSON_BYTES} are read here"
        raise TooLarge("too_large", message, field=field)
    keys, items = content.count(b":"), content.count(b",")
    if keys > MOST_KEYS or items > MOST_ITEMS:
        found = f"JSON with about {keys} keys and {items} values; at most {MOST_KEYS} and {MOST_ITEMS} are read here"
        raise TooLarge("too_many_values", found, field=field)


class JsonBodies:
    """Reads the whole body, which is small, checks it, and hands it on; files go through untouched."""

    def __init__(self, app: ASGIApp, takes_file: Callable[[str], bool]) -> None:
        self.app = app
        self._takes_file = takes_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            _check_query(scope["query_string"])
            if self._is_json(scope):
                receive = await _checked(receive)
        except RegistryError as error:
            await told(scope["path"], error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_json(self, scope: Scope) -> bool:
        if scope["method"] not in _BODY_METHODS:
            return False
        kind = Headers(scope=scope).get("content-type", "").lower()
        return not (self._takes_file(scope["path"]) or kind.startswith("multipart/form-data"))


def _check_query(query: bytes) -> None:
    parameters = query.count(b"&") + 1
    if parameters > _MOST_PARAMETERS:
        message = f"the query string has {parameters} parameters; at most {_MOST_PARAMETERS}"
        raise InvalidRequest("too_many_parameters", message)


async def _checked(receive: Receive) -> Receive:
    """Receives the body once more, in one piece, and then what comes after it."""
    pieces: list[bytes] = []
    size = 0
    message: Message = {"more_body": True}
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":  # whoever reads the body finds it out
            break
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MOST_JSON_BYTES:
            break
    content = b"".join(pieces)
    check_json(content)
    waiting = [message if message["type"] == "http.disconnect" else {"type": "http.request", "body": content}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
