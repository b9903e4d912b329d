"""Entered rows: what somebody types or pastes, as CSV or JSON, becomes the `inputs` of a prediction.

Whether they fit the model is for the API to say; here it is only made out what they are.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from math import prod

from pydantic import JsonValue

from service.inference.profile import ServingProfile, TensorSpec
from service.registry.errors import InvalidRequest

#: Of one cell in an error message.
_SHOWN = 40


def inputs_of(text: str, profile: ServingProfile) -> JsonValue:
    """The inputs that a text gives: JSON if it begins like that, else CSV; one row may stand alone.

    Raises:
        InvalidRequest: `empty_inputs`, `invalid_json` or `wrong_inputs`, with the place.
    """
    stripped = text.strip()
    if not stripped:
        raise InvalidRequest("empty_inputs", "nothing was entered; at least one row is needed", field="inputs")
    if stripped[0] in "[{":
        return _of_json(stripped, profile)
    if len(profile.inputs) > 1:
        names = ", ".join(spec.name for spec in profile.inputs)
        message = f"this model has several inputs ({names}); needed is a JSON object with the rows of each"
        raise InvalidRequest("wrong_inputs", message, field="inputs")
    return _of_csv(stripped, profile.columns, profile.inputs[0])


def row_of(columns: Sequence[str], cells: Sequence[str]) -> JsonValue:
    """One row from a field for each column."""
    return [{name: _value(cell, f"column {_short(name)!r}") for name, cell in zip(columns, cells, strict=False)}]


def _of_json(text: str, profile: ServingProfile) -> JsonValue:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        message = f"what was entered begins like JSON and is none: {reason}"
        raise InvalidRequest("invalid_json", message, field="inputs") from error
    if isinstance(found, dict) and set(found) == {"inputs"}:  # the body of a request
        found = found["inputs"]
    specs = {spec.name: spec for spec in profile.inputs}
    if not isinstance(found, dict):
        return _rows(found, profile.inputs[0])
    if len(specs) == 1 and found.keys() != specs.keys():
        return [found]  # a row by the names of its columns
    return {name: _rows(rows, specs.get(name)) for name, rows in found.items()}


def _rows(value: JsonValue, spec: TensorSpec | None) -> JsonValue:
    """The value, or a list of it where it is one row."""
    return [value] if spec is not None and isinstance(value, list) and _depth(value) == len(spec.row) else value


def _depth(value: JsonValue) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _of_csv(text: str, columns: Sequence[str] | None, spec: TensorSpec) -> JsonValue:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True) if line]
    except csv.Error as error:
        message = f"what was entered is neither JSON nor CSV: {error}"
        raise InvalidRequest("wrong_inputs", message, field="inputs") from error
    if columns is not None and any(cell.strip() in set(columns) for cell in lines[0]):
        names = [cell.strip() for cell in lines[0]]
        return [_named(names, line, number) for number, line in enumerate(lines[1:], 2)]
    rows = [[_value(cell, f"line {n}, value {i}") for i, cell in enumerate(line, 1)] for n, line in enumerate(lines, 1)]
    sizes = [size for size in spec.row if isinstance(size, int)]
    if len(sizes) == len(spec.row) > 1:
        return [_shaped(row, sizes) if len(row) == prod(sizes) else row for row in rows]
    return list(rows)


def _named(names: Sequence[str], line: Sequence[str], number: int) -> dict[str, JsonValue]:
    if len(line) != len(names):
        message = f"line {number} has {len(line)} values, and the heading names {len(names)} columns"
        raise InvalidRequest("wrong_inputs", message, field="inputs")
    return {
        name: _value(cell, f"line {number}, column {_short(name)!r}") for name, cell in zip(names, line, strict=True)
    }


def _shaped(row: list[JsonValue], sizes: Sequence[int]) -> JsonValue:
    """The numbers of a row, the last dimension running first.

    >>> _shaped([1, 2, 3, 4], [1, 2, 2])
    [[[1, 2], [3, 4]]]
    """
    if len(sizes) <= 1:
        return row
    step = len(row) // sizes[0]
    return [_shaped(row[start : start + step], sizes[1:]) for start in range(0, len(row), step)]


def _value(cell: str, place: str) -> JsonValue:
    """The number in a cell; an empty one is missing."""
    text = cell.strip()
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InvalidRequest("wrong_inputs", f"{place}: {_short(text)!r} is no number", field="inputs")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
