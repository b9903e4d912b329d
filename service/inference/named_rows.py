"""Rows by column name: JSON objects become lists in the order of the model's columns, or an error names the column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from service.inference.excerpts import listed, shown
from service.inference.profile import ServingProfile, TensorSpec
from service.registry.errors import InvalidRequest

Row = Mapping[str, Any]

_NUMBERS = {int, float}
_NULL = type(None)


def listed_rows(rows: Sequence[Row], spec: TensorSpec, profile: ServingProfile, text: bytes) -> list[list[Any]]:
    """The values of each row in the order of the model's columns.

    Args:
        text: the JSON that the rows were read from, where a column may stand twice.

    Raises:
        InvalidRequest: `no_column_names`, `unknown_columns`, `missing_columns`, `doubled_columns`, `wrong_dtype`.
    """
    columns = profile.columns
    if columns is None or len(profile.inputs) > 1:
        raise _nameless(spec, several=len(profile.inputs) > 1)
    wanted = dict.fromkeys(columns).keys()
    for number, row in enumerate(rows):
        if row.keys() != wanted:
            raise _other_columns(number, row, columns)
    if text.count(b":") != sum(map(len, rows)) + 1:  # one for "inputs"; options, and colons in names, count too
        _check_doubled(text)
    take = itemgetter(*columns)
    values = [list(take(row)) for row in rows] if len(columns) > 1 else [[take(row)] for row in rows]
    kinds = set(map(type, chain.from_iterable(values)))
    if not kinds <= (_NUMBERS | {_NULL} if spec.nan else _NUMBERS):
        raise _no_number(rows, columns, spec)
    return values


def _nameless(spec: TensorSpec, *, several: bool) -> InvalidRequest:
    shape = f"[{', '.join(map(str, spec.row))}]"
    if several:
        message = f"rows of {spec.name!r} are objects, and a model with several inputs has no columns by name"
        return InvalidRequest("no_column_names", f"{message}; needed are rows of shape {shape}", field="inputs")
    message = (
        f"rows are objects by column name, and this model's columns have no names: send lists of shape {shape}, or "
        "send the model again with `columns` (their names in order), or calibrate it on a csv or parquet file, whose "
        "names the calibrated model keeps"
    )
    return InvalidRequest("no_column_names", message, field="inputs")


def _other_columns(number: int, row: Row, columns: Sequence[str]) -> InvalidRequest:
    known = set(columns)
    unknown, missing = [name for name in row if name not in known], [name for name in columns if name not in row]
    faults = [f"unknown: {listed(unknown)}"] if unknown else []
    faults += [f"missing: {listed(missing)}"] if missing else []
    message = f"row {number}: {'; '.join(faults)}; the model's columns are {listed(columns)}"
    message += ", leave out any other, such as the label" if unknown else ""
    return InvalidRequest("unknown_columns" if unknown else "missing_columns", message, field="inputs")


class _Doubled(Exception):
    """A name that an object has twice."""


def _check_doubled(text: bytes) -> None:
    """Refuse a name that stands twice in one object, of which readers of JSON keep the last."""
    try:
        json.loads(text, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except _Doubled as error:
        message = f"{error} stands more than once in one object: say each once"
        raise InvalidRequest("doubled_columns", message, field="inputs") from None
    except (ValueError, RecursionError):  # another reader has read it already
        return


def _distinct(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _Doubled(shown(name))
        found[name] = value
    return found


def _no_number(rows: Sequence[Row], columns: Sequence[str], spec: TensorSpec) -> InvalidRequest:
    for number, row in enumerate(rows):
        for name in columns:
            value = row[name]
            if value is None and not spec.nan:
                return no_missing(f"row {number}, column {shown(name)}")
            if type(value) not in (int, float, _NULL):
                where = f"row {number}, column {shown(name)}"
                message = f"{where}: found {shown(value)}; a number is needed"
                return InvalidRequest("wrong_dtype", message, field="inputs")
    raise AssertionError("every value is a number")


def no_missing(where: str) -> InvalidRequest:
    """The error for null where the model takes no missing values."""
    message = (
        f"{where}: null, and the model takes no missing values: neither it nor the dataset that it was calibrated on "
        "was sent with missing=nan"
    )
    return InvalidRequest("wrong_dtype", message, field="inputs")
