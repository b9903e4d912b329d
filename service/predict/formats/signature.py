"""The signature of a model, enforced: rows of a request become its input arrays, or an error says what is needed.

Rows may be objects by column name. Ragged lists are padded and null becomes NaN, as in the dataset that the model was
calibrated on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import nan
from operator import itemgetter
from typing import Any, NoReturn

import numpy as np

from service.predict.engine.profile import ServingProfile, TensorSpec
from service.predict.formats.images import are_objects, decoded, image_file, is_image
from service.predict.formats.json_inputs import (
    all_finite,
    first_unsound,
    holds,
    listed,
    may_hold_booleans,
    only_numbers,
    plain_array,
    shape_of,
    shown,
)
from service.registry.errors import InvalidRequest, TooLarge

Row = Mapping[str, Any]

_NUMBERS = {int, float}
_NULL = type(None)
#: The padded rows of one input: a list of a million values and thousands of short ones would become gigabytes.
MAX_BYTES = 64 << 20


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
    if not set(map(type, chain.from_iterable(values))) <= (_NUMBERS | {_NULL} if spec.nan else _NUMBERS):
        raise _no_number(rows, columns, spec)
    return values


def _nameless(spec: TensorSpec, *, several: bool) -> InvalidRequest:
    shape = _shown(spec.row)
    if several:
        message = f"rows of {spec.name!r} are objects, and a model with several inputs has no columns by name"
        return InvalidRequest("no_column_names", f"{message}; expected rows of shape {shape}", field="inputs")
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
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise _Doubled(shown(name))
        members[name] = value
    return members


def _no_number(rows: Sequence[Row], columns: Sequence[str], spec: TensorSpec) -> InvalidRequest:
    for number, row in enumerate(rows):
        for name in columns:
            value = row[name]
            if value is None and not spec.nan:
                return no_missing(f"row {number}, column {shown(name)}")
            if type(value) not in (int, float, _NULL):
                message = f"row {number}, column {shown(name)}: found {shown(value)}; a number is needed"
                return InvalidRequest("wrong_dtype", message, field="inputs")
    raise AssertionError("every value is a number")


def no_missing(where: str) -> InvalidRequest:
    message = (
        f"{where}: null, and the model takes no missing values: neither it nor the dataset that it was calibrated on "
        "was sent with missing=nan"
    )
    return InvalidRequest("wrong_dtype", message, field="inputs")


def filled(rows: list[Any], spec: TensorSpec) -> np.ndarray | None:
    """(N, *row) filled as the model's reading says, None if more is wrong; raises TooLarge `too_many_values`."""
    if spec.nan and np.dtype(spec.dtype).kind == "f":
        rows = _with_nan(rows, len(spec.row))
    if spec.fill is None or not spec.row or set(map(type, rows)) != {list}:
        return plain_array(rows, spec.row, spec.dtype)
    return _padded(rows, spec, spec.fill)


def _with_nan(values: list[Any], depth: int) -> list[Any]:
    if depth == 0:
        return [nan if value is None else value for value in values]
    return [_with_nan(value, depth - 1) if type(value) is list else value for value in values]


def _padded(rows: list[list[Any]], spec: TensorSpec, fill: float) -> np.ndarray | None:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    longest, wanted = int(lengths.max()), spec.row[0]
    width = wanted if isinstance(wanted, int) else longest
    cells = plain_array(list(chain.from_iterable(rows)), spec.row[1:], spec.dtype)
    if cells is None or longest > width:
        return None
    if len(rows) * width * cells[:1].nbytes > MAX_BYTES:
        message = (
            f"{len(rows)} rows, padded to {width} values each, take more than {MAX_BYTES >> 20} MiB; "
            "send rows of like length together"
        )
        raise TooLarge("too_many_values", message, field="inputs")
    padded = np.full((len(rows), width, *cells.shape[1:]), fill, cells.dtype)
    padded[np.arange(width) < lengths[:, None]] = cells
    return padded


def parse_inputs(value: object, profile: ServingProfile, *, max_rows: int, text: bytes = b"") -> dict[str, np.ndarray]:
    """Return one array per input of the model, all with the same number of rows; rows may be image files.

    `text` is the JSON that the value was read from: it tells at little cost whether any value can be true or false, and
    whether a column stands twice.

    Raises InvalidRequest with the expected shape, and TooLarge for more than `max_rows` rows.
    """
    booleans = may_hold_booleans(text)
    if type(value) is list and len(profile.inputs) == 1 and len(value) <= max_rows and not booleans:
        spec = profile.inputs[0]
        array = plain_array(value, spec.row, spec.dtype)
        if array is not None and all_finite(array):  # JSON has no infinities, but some readers of it let them through
            return {spec.name: array}  # nearly always; all that follows finds out what is wrong, or reads images
    by_name = _by_name(value, profile.inputs)
    check_row_counts({name: len(rows) for name, rows in by_name.items()}, max_rows)
    return {spec.name: _rows(by_name[spec.name], spec, profile, text, booleans) for spec in profile.inputs}


def _by_name(value: object, specs: Sequence[TensorSpec]) -> dict[str, list[object]]:
    names = [spec.name for spec in specs]
    if isinstance(value, list) and len(names) == 1:
        value = {names[0]: value}
    if not isinstance(value, dict) or set(value) != set(names):
        given = f"an object with {listed(value)}" if isinstance(value, dict) else _kind(value)
        needed = f"rows of shape {_shown(specs[0].row)}" if len(names) == 1 else f"an object with {sorted(names)}"
        raise InvalidRequest("wrong_inputs", f"inputs must be {needed}; found {given}", field="inputs")
    for name, rows in value.items():
        if not isinstance(rows, list):
            message = f"input {shown(name)} must be a list of rows, not {_kind(rows)}"
            raise InvalidRequest("wrong_inputs", message, field="inputs")
    return value


def check_row_counts(counts: Mapping[str, int], max_rows: int) -> None:
    """Raise InvalidRequest where inputs (name → rows) differ in number or have no row, TooLarge where too many."""
    if len(counts) > 1 and len(set(counts.values())) > 1:
        raise InvalidRequest("wrong_inputs", f"inputs differ in their number of rows: {dict(counts)}", field="inputs")
    count = next(iter(counts.values()))
    if count == 0:
        raise InvalidRequest("empty_inputs", "inputs holds no row; at least one is needed", field="inputs")
    if count > max_rows:
        advice = "send them in parts, or POST /v1/batches over a stored dataset"
        raise TooLarge("too_many_rows", f"{count} rows in one request; at most {max_rows}: {advice}", field="inputs")


def _rows(rows: list[Any], spec: TensorSpec, profile: ServingProfile, text: bytes, booleans: bool) -> np.ndarray:
    if are_objects(rows):
        if profile.columns is None and (profile.preprocessing is not None or is_image(rows[0])):
            return decoded((image_file(number, row) for number, row in enumerate(rows)), spec, profile.preprocessing)
        rows, booleans = listed_rows(rows, spec, profile, text), False
    return _array(rows, spec, booleans)


def _array(rows: list[Any], spec: TensorSpec, booleans: bool) -> np.ndarray:
    if booleans and spec.dtype != "bool" and holds(rows, bool):  # of which numpy would make 1 and 0
        row = first_unsound(rows, lambda some: not holds(list(some), bool))
        _fail("wrong_dtype", spec, f"true/false values in row {row}")
    array = plain_array(rows, spec.row, spec.dtype)
    if array is not None and all_finite(array):
        return array
    if spec.nan or spec.fill is not None:
        array = filled(rows, spec)
    if array is not None:
        return fit(array, spec)
    if not only_numbers(rows) or shape_of(rows) is None:
        _explain_bad_rows(rows, spec)
    array = np.asarray(rows)
    if array.dtype.kind not in "iufb":  # integers beyond 64 bits
        _fail("wrong_dtype", spec, "a number that is too large")
    return fit(array, spec)


def fit(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Rows of any number type as the model takes them: cast where nothing but precision is lost, never scaled.

    Args:
        array: (N, *row) of bool, integers or floats.
        spec: the model's input.

    Raises:
        InvalidRequest: `wrong_shape`, `wrong_dtype` or `non_finite`, with what was found and what is needed.
    """
    name, dtype, expected = spec.name, np.dtype(spec.dtype), spec.shape
    if array.dtype == dtype and _fits(array.shape, expected) and (dtype.kind != "f" or all_finite(array)):
        return array  # nearly always
    if array.dtype.kind not in "iufb":
        _fail("wrong_dtype", spec, f"values of type {array.dtype}")
    if array.dtype.kind == "b" and dtype.kind != "b":
        _fail("wrong_dtype", spec, "true/false values")
    if not _fits(array.shape, expected):
        _fail("wrong_shape", spec, f"rows of shape {_shown(array.shape[1:])}")
    if dtype.kind in "iu" and array.dtype.kind == "f" and array.size:
        _fail("wrong_dtype", spec, f"values with decimals, for example {array.flat[0]}")
    if array.dtype.kind == "f" and not all_finite(array):
        broken = np.isinf(array) if spec.nan else ~np.isfinite(array)
        if broken.any():
            row, kind = int(np.argwhere(broken)[0][0]), "infinity" if spec.nan else "NaN or infinity"
            raise InvalidRequest("non_finite", f"input {name!r}, row {row}: {kind}", field="inputs")
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is answered below
        cast = array.astype(dtype)
    if dtype.kind == "f" and np.isinf(cast).any():
        raise InvalidRequest("non_finite", f"input {name!r}: a value is too large for {dtype}", field="inputs")
    if dtype.kind in "iub" and not np.array_equal(cast, array):
        raise InvalidRequest("wrong_dtype", f"input {name!r}: a value does not fit {dtype}", field="inputs")
    return cast


def _explain_bad_rows(rows: list[object], spec: TensorSpec) -> NoReturn:
    number = first_unsound(rows, lambda some: _is_sound(some, spec))
    shape = shape_of(rows[number])
    if shape is None:
        _fail("wrong_shape", spec, f"a ragged list in row {number}")
    if not _fits((1, *shape), spec.shape):
        _fail("wrong_shape", spec, f"shape {_shown(shape)} in row {number}")
    if holds([rows[number]], type(None)):
        raise no_missing(f"input {spec.name!r}, row {number}")
    if not only_numbers(rows[number]):
        _fail("wrong_dtype", spec, f"something that is no number in row {number}")
    _fail("wrong_shape", spec, "rows of different shapes")


def _is_sound(rows: Sequence[Any], spec: TensorSpec) -> bool:
    rows = list(rows)
    shape = shape_of(rows)
    return shape is not None and _fits(shape, spec.shape) and only_numbers(rows)


def _fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    if len(shape) != len(expected):
        return False
    for size, wanted in zip(shape, expected, strict=True):
        if size != wanted and not isinstance(wanted, str):
            return False
    return True


def _fail(code: str, spec: TensorSpec, given: str) -> NoReturn:
    needed = f"rows of shape {_shown(spec.row)} with dtype {spec.dtype}"
    raise InvalidRequest(code, f"input {spec.name!r}: found {given}; expected {needed}", field="inputs")


def _shown(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
