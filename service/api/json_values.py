"""The JSON parser of bodies, form parts and parameters: no lone surrogates, and at most 200 levels."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from service.registry.errors import InvalidRequest


def parse_json(content: str | bytes, field: str) -> Any:
    """The value; raises InvalidRequest, with the field that it came in."""
    try:
        return from_json(content.encode() if isinstance(content, str) else content)
    except ValueError as error:
        raise InvalidRequest("invalid_json", f"{field} is not valid JSON: {error}", field=field) from error
