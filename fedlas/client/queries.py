"""Queries and orders: keyword arguments as the server wants them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from fedlas.client.errors import InvalidInput


class HasId(Protocol):
    """A record with an id."""

    @property
    def id(self) -> str:
        """The id."""


def id_of(record: str | HasId) -> str:
    """The id of a record, or the id or name itself, for a path."""
    found = record if isinstance(record, str) else getattr(record, "id", None)
    if not isinstance(found, str):
        raise InvalidInput("bad_id", f"found {record!r:.80}; needed is an id, a name, or a record")
    if found in ("", ".", ".."):
        raise InvalidInput(
            "empty_id" if not found else "bad_id", "the id or name is " + (repr(found) if found else "empty")
        )
    return found


def path_part(record: str | HasId) -> str:
    """The same, quoted for a path; an empty one would name the whole list."""
    return quote(id_of(record), safe="")


def query(**given: Any) -> dict[str, str | int | float]:
    """Parameters of a query: without None, and what is no text as JSON."""
    return {name: _text(value) for name, value in given.items() if value is not None}


def _text(value: Any) -> str | int | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return json.dumps(list(value))


def given(options: Mapping[str, Any], **instead: Any) -> dict[str, Any]:
    """The options that have a value, some of them replaced."""
    return {name: value for name, value in {**options, **instead}.items() if value is not None}


def budget_of(budget: float | Mapping[str, float] | None) -> Mapping[str, float] | None:
    """A number of minutes, or `{"minutes": …, "candidates": …}`."""
    return {"minutes": budget} if isinstance(budget, int | float) else budget


def stored_id(given: object, prefix: str) -> str | None:
    """The id, where a record or its id is given and no file; None for anything else."""
    if isinstance(given, str) and given.startswith(f"{prefix}_") and not Path(given).exists():
        return given
    found = getattr(given, "id", None)
    return found if isinstance(found, str) and found.startswith(f"{prefix}_") else None


def metadata_filter(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The parameters that filter jobs by their metadata."""
    return {f"metadata.{key}": value for key, value in (metadata or {}).items()}


def names_of(names: Sequence[str] | None) -> list[str] | None:
    """Names as a list; one text is a comma-separated list already."""
    if names is None:
        return None
    return [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)


def body_of_order(value: Any) -> bytes:
    """A body of JSON; raises InvalidInput for what JSON has no word for, with its field."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        field, found = next(_unwritable(value, ""), ("body", value))
        error = InvalidInput(
            "not_json", f"{field}: found {found!r:.80}; needed is a finite number, a text, or a list of them"
        )
        error.field = field
        raise error from None


def _unwritable(value: Any, field: str) -> Iterator[tuple[str, Any]]:
    """What of it cannot be written, and where."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _unwritable(part, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _unwritable(part, f"{field}.{index}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield field, value
    elif not isinstance(value, str | int | None):
        yield field, value
