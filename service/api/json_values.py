"""The JSON of bodies, form parts and parameters: no lone surrogates, at most 200 levels, and no more than is needed.

What is wrong with a JSON body becomes an error for each key and each item, and each takes some 10 µs to make. So there
may be no more of either than what a request needs.
"""

from __future__ import annotations

import sys

from pydantic import JsonValue
from pydantic_core import from_json

from service.registry.documents import JsonObject
from service.registry.errors import InvalidRequest, TooLarge

#: A job has some 50 fields and as many metadata of 512 characters; costs of 300 classes are 200 KB.
MOST_JSON_BYTES = 256 * 1024
#: `max_error` and `coverage` may have a key for each class.
MOST_KEYS = 2_000
#: Values in lists; only the costs of a decision have more than a few.
MOST_ITEMS = 100_000
#: Integers of JSON may be larger than any float.
_LARGEST = sys.float_info.max


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
        if not isinstance(value, int | float) or isinstance(value, bool) or not -_LARGEST <= value <= _LARGEST:
            message = f"padding of input {name[:100]!r} must be a finite number"
            raise InvalidRequest("invalid_padding", message, field="padding")
    return padding


def check_json(content: bytes, *, field: str | None = None) -> None:
    """Raise TooLarge for JSON that is longer, or holds more, than any request of these resources needs."""
    if len(content) > MOST_JSON_BYTES:
        message = f"JSON of {len(content)} bytes; at most {MOST_JSON_BYTES} are read here"
        raise TooLarge("too_large", message, field=field)
    keys, items = content.count(b":"), content.count(b",")
    if keys > MOST_KEYS or items > MOST_ITEMS:
        found = f"JSON with about {keys} keys and {items} values; at most {MOST_KEYS} and {MOST_ITEMS} are read here"
        raise TooLarge("too_many_values", found, field=field)
