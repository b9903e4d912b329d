"""Lists of names in a parameter: a JSON list, or names between commas, quoted as in csv where they hold a comma."""

from __future__ import annotations

import csv
import io

from pydantic import JsonValue
from pydantic_core import from_json

from service.registry.errors import InvalidRequest
from service.registry.json_models import objection

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
        found = str(names[:10])[:_SHOWN]
        raise _refused(field, f"must be {wanted}; found {found}")
    return names


def _listed(text: str, field: str) -> list[str]:
    if text.lstrip().startswith("["):
        try:
            return [_name(item, field) for item in _items(from_json(text))]
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


def _items(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise ValueError("it is no list")
    return value


def _name(item: JsonValue, field: str) -> str:
    """The name; whole numbers may stand for themselves."""
    if isinstance(item, bool) or not isinstance(item, str | int):
        raise _refused(field, f"must be names; found {str(item)[:_SHOWN]!r} in the list")
    if found := objection(str(item)):
        raise _refused(field, f"must be names that can be kept; one {found}")
    return str(item).strip()


def _refused(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"invalid_{field}", f"{field} {what}", field=field)
