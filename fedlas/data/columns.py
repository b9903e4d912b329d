"""Columns: what readers hand on, the checks that all formats share, and the columns of roles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedlas.contract.profiles import Notice
from fedlas.data.dataset import Array, Integers
from fedlas.data.labels import as_text, codes
from fedlas.data.roles import unnamed
from fedlas.errors import BadDataset

#: A text column stands in memory, as wide as its longest cell.
MAX_TEXT_BYTES = 1 << 30
_CELLS = 1 << 16

Column: TypeAlias = pa.Array | pa.ChunkedArray


def is_numeric(kind: pa.DataType) -> bool:
    """True where values of this Arrow type are numbers (or true and false)."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, beneath extensions and dictionaries."""
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    return stored_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def stored(column: Column) -> Column:
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([stored(chunk) for chunk in column.chunks], stored_type(column.type))
    if isinstance(column.type, pa.BaseExtensionType):
        return stored(column.storage)
    return stored(column.dictionary_decode()) if pa.types.is_dictionary(column.type) else column


def numeric(column: Column) -> Array:
    """Numbers (n,) in their own type; decimals become float64, and so do integers and booleans with empty cells."""
    kind = column.type
    if pa.types.is_decimal(kind) or (column.null_count and not pa.types.is_floating(kind)):
        column = column.cast(pa.int8() if pa.types.is_boolean(kind) else kind).cast(pa.float64(), safe=False)
    if pa.types.is_floating(column.type) and column.null_count:
        column = pc.fill_null(column, pa.scalar(float("nan"), column.type))
    array = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    return np.asarray(array)


def text_array(name: str, column: Column) -> Array:
    """Text (n,), empty where a cell is; pure ASCII as bytes (`S`), which take a quarter of the room.

    Raises:
        BadDataset: `corrupt` where it is no UTF-8 text, `too_large` where one long cell would make the column wide.
    """
    try:
        column = column.cast(pa.large_binary()).cast(pa.large_string())  # the way back is what checks the bytes
    except pa.ArrowInvalid as error:
        raise BadDataset("corrupt", f"the column '{name}' is not UTF-8 text") from error
    if pc.any(pc.match_substring(column, "\0")).as_py():
        raise BadDataset("corrupt", f"the text in '{name}' has a NUL character")
    longest = pc.max(pc.utf8_length(column)).as_py() or 1
    ascii_only = pc.all(pc.string_is_ascii(column)).as_py() is not False
    texts = np.empty(0, f"{'S' if ascii_only else 'U'}{longest}")
    if texts.itemsize * len(column) > MAX_TEXT_BYTES:
        raise BadDataset("too_large", f"the text in '{name}' is up to {longest} characters long: too much for a role")
    texts = np.empty(len(column), texts.dtype)
    for start in range(0, len(column), _CELLS):
        cells = pc.fill_null(column.slice(start, _CELLS), "")
        texts[start : start + _CELLS] = cells.cast(pa.large_binary() if ascii_only else cells.type).to_pylist()
    return texts


def single_values(name: str, column: Column) -> Array:
    """A whole column (n,) as numbers, text, or times (datetime64, UTC where it has a zone).

    Raises:
        BadDataset: `unsupported_dtype` where its values are none of these.
    """
    column = stored(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if is_numeric(kind):
        return numeric(column)
    if pa.types.is_temporal(kind) and not pa.types.is_time(kind) and not pa.types.is_duration(kind):
        return np.asarray(column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False).to_numpy())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return text_array(name, column)
    raise BadDataset("unsupported_dtype", f"the column '{name}' is {kind}; numbers, text or times are needed")


def is_tensor(kind: pa.DataType) -> bool:
    """True where this Arrow type is a list of numbers, of any depth and kind of list."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return True
    kind = stored_type(kind)
    if not _is_list(kind):
        return False
    return is_tensor(kind.value_type) or is_numeric(stored_type(kind.value_type))


def longest(column: pa.Array) -> int:
    column = stored(column)
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    return int(pc.max(pc.list_value_length(column)).as_py() or 0)


def tensor(name: str, column: pa.Array, *, first: int, width: int | None = None, fill: float | None = None) -> Array:
    """The rows (n, ...) of a list column.

    Args:
        first: number of the column's first row in the file, for messages.
        width, fill: where both are given, every row is filled with `fill` to `width` entries.

    Raises:
        BadDataset: `ragged` (with the row), `non_finite` (no list in a row), `bad_padding`.
    """
    rows = np.arange(first, first + len(column))
    if isinstance(column.type, pa.FixedShapeTensorType):
        _check_present(name, column, rows)
        order = column.type.permutation
        # One that is not its own inverse (NHWC seen as NCHW) is read wrongly by pyarrow's `to_numpy_ndarray`.
        if order is not None and [order[place] for place in order] != list(range(len(order))):
            fault = f"'{name}' has tensors whose dimensions are stored in the order {list(order)}"
            raise BadDataset("unsupported_dtype", f"{fault}; send them as they lie in memory (numpy.ascontiguousarray)")
        return np.asarray(column.to_numpy_ndarray())
    if width is None or fill is None:
        return _dense(name, stored(column), rows)
    return _padded(name, stored(column), rows, width, fill)


def _dense(name: str, column: pa.Array, rows: Integers) -> Array:
    """Lists of equal length (n, length, ...); plain numbers as they are."""
    if not _is_list(column.type):
        return numeric(column)
    lengths = _lengths(name, column, rows)
    odd = np.flatnonzero(lengths != lengths[:1])
    if len(odd):
        row = int(odd[0])
        raise BadDataset(
            "ragged",
            f"'{name}' has {lengths[row]} values in row {rows[row]} and {lengths[0]} in row {rows[0]} (counted from "
            f'0); make them equal, or send padding={{"{name}": 0}} to fill shorter rows',
        )
    inner = _dense(name, stored(column.flatten()), np.repeat(rows, lengths))
    return inner.reshape(len(column), int(lengths[0]) if len(lengths) else 0, *inner.shape[1:])


def _padded(name: str, column: pa.Array, rows: Integers, width: int, fill: float) -> Array:
    lengths = _lengths(name, column, rows)
    inner = _dense(name, stored(column.flatten()), np.repeat(rows, lengths))
    if inner.dtype.kind != "f" and np.array(fill).astype(inner.dtype) != fill:
        raise BadDataset("bad_padding", f"'{name}' is {inner.dtype}, which {fill} is not: choose another padding")
    padded = np.full((len(column), width, *inner.shape[1:]), fill, inner.dtype)
    padded[np.arange(width) < lengths[:, None]] = inner
    return padded


def _lengths(name: str, column: pa.Array, rows: Integers) -> Integers:
    _check_present(name, column, rows)
    if pa.types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    return np.asarray(pc.list_value_length(column).to_numpy(zero_copy_only=False), np.int64)


def _check_present(name: str, column: pa.Array, rows: Integers) -> None:
    if column.null_count:
        row = int(rows[column.is_null().index(True).as_py()])
        raise BadDataset("non_finite", f"'{name}' is empty in row {row} (counted from 0); a list is needed")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


#: ISO 8601 without and with a zone; the second becomes UTC.
_TIMES = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
TABLE = "inputs"


@dataclass(frozen=True)
class Columns:
    """The columns of a file: those asked for by name, everything else as inputs, and warnings.

    Attributes:
        table: the names of the numeric columns that form one input together, in order; None without such an input.
    """

    named: dict[str, Array]
    inputs: dict[str, Array]
    warnings: list[str] = field(default_factory=list)
    table: list[str] | None = None
    adjustments: list[Notice] = field(default_factory=list)


def check_names(names: Sequence[str]) -> None:
    """BadDataset `duplicate_column` where two columns have one name."""
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise BadDataset(
            "duplicate_column", f"these columns appear more than once: {', '.join(twice[:20])}{unnamed(twice)}"
        )


def check_lengths(arrays: Mapping[str, Array], first: str) -> None:
    """BadDataset `length_mismatch` or `empty` unless every array has as many rows as that called `first`."""
    wanted = len(arrays[first]) if arrays[first].ndim else None
    if wanted == 0:
        raise BadDataset("empty", f"'{first}' has no rows")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != wanted:
            rows = "a single value" if array.ndim == 0 else f"{len(array)} rows"
            raise BadDataset("length_mismatch", f"'{name}' has {rows}, but '{first}' has {wanted or 'one'}")


def side_by_side(columns: Sequence[Array]) -> Array:
    """Numeric columns (n,) each as one array (n, columns), of a type that holds all of them."""
    return np.column_stack(columns)


def check_single(what: str, array: Array) -> None:
    """BadDataset `bad_role` unless there is one value per row."""
    if array.shape[1:]:
        raise BadDataset("bad_role", f"the {what} needs one value per row, got shape {array.shape}")


_CLEAN = 'pandas.read_csv("YOUR_FILE", sep=None, engine="python", {}=",").to_csv("clean.csv", index=False)'
#: How cells are written that people mean as numbers, and the remedy; the first that fits is meant.
_WRITTEN = (
    (
        r"[-+]?\d{1,3}((,\d{3})+\.\d+|(,\d{3}){2,})",
        "nothing may stand between thousands: " + _CLEAN.format("thousands"),
    ),
    (r"[-+]?\d*,\d+", "numbers need a decimal point: " + _CLEAN.format("decimal")),
    (r"[-+]?\d{1,3}(\.\d{3})*,\d+", "numbers need a decimal point: " + _CLEAN.format('thousands=".", decimal')),
    (r"[-+]?\d+([.,]\d+)?\s*%", "write it without the percent sign"),
    (
        r"\d{4}-\d\d-\d\d.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*",
        "a date is no input: say --role time=COLUMN, or leave it out",
    ),
    (r"\W|(?i:none|missing|unknown|n\.a\.)", "leave such a cell empty"),
)


def as_number(text: str) -> str:
    """The remedy for a cell that is meant as a number; empty for any other text.

    >>> as_number("97.5%"), as_number("31.05.2024")[:6], as_number("red")
    ('write it without the percent sign', 'a date', '')
    """
    return next((remedy for pattern, remedy in _WRITTEN if re.fullmatch(pattern, text.strip())), "")


def not_numeric(what: str, name: str, kind: str, value: object, row: int) -> BadDataset:
    """The error for a column that is neither number nor role, with a cell of it."""
    shown = str(value) if len(str(value)) <= 60 else f"{str(value)[:60]}…"
    remedy = as_number(str(value)) or (
        f'if it holds the labels, say roles={{"label": "{name}"}} (on the command line --role label={name}); else '
        f'encode it as numbers, leave it out, or give it another role, such as roles={{"slices": ["{name}"]}}'
    )
    return BadDataset(
        "non_numeric_column",
        f"the {what} '{name}' is {kind} ({shown!r} in row {row}, counted from 0) and has no role: {remedy}",
    )


def read_groups(name: str, array: Array) -> Integers:
    """Numbers (N,), equal where the groups are; BadDataset `bad_groups` where a row has none."""
    check_single("group", array)
    _check_no_gaps(array, "bad_groups", f"the group '{name}'")
    return codes(array)


def read_slice(name: str, array: Array) -> Array:
    check_single(f"slice {name!r}", array)
    return array if array.dtype.kind in "iufb" else as_text(array)


def read_weights(name: str, array: Array) -> NDArray[np.float64]:
    """Sampling weights (N,), at least 0 and not all 0; BadDataset `bad_weights` with the row otherwise."""
    check_single("weight", array)
    if array.dtype.kind not in "biuf":
        raise BadDataset(
            "bad_weights",
            f"the weights '{name}' are {array.dtype.name}, not numbers: {str(as_text(array[:1])[0])[:60]!r}",
        )
    weights = array.astype(np.float64)
    row = _first(~(np.isfinite(weights) & (weights >= 0)))
    if row is not None:
        raise BadDataset(
            "bad_weights",
            f"the weight '{name}' is {weights[row]} in row {row} (counted from 0); weights are finite and at least 0",
        )
    if not weights.any():
        raise BadDataset("bad_weights", f"all weights in '{name}' are 0")
    return weights


def read_ids(name: str, array: Array) -> tuple[Array, list[str]]:
    """The names of the rows (N,), numbers, text or bytes of text, and a sentence where two rows share one."""
    check_single("id", array)
    rows = codes(array)
    ids = array if array.dtype.kind in "iufbS" else as_text(array)
    twice = np.flatnonzero(np.bincount(rows) > 1)
    if not len(twice):
        return ids, []
    first, second = np.flatnonzero(rows == twice[0])[:2]
    (shown,) = as_text(ids[[first]])
    return ids, [
        f"{len(twice)} values of the id '{name}' stand in more than one row, for example {str(shown)[:60]} "
        f"in rows {first} and {second} (counted from 0)"
    ]


def read_time(name: str, array: Array) -> Array:
    """Times (N,) as numbers or datetime64, from numbers, ISO 8601 text or timestamps.

    Raises:
        BadDataset: `bad_time` with the row that is empty or cannot be read.
    """
    check_single("time", array)
    if array.dtype.kind in "SU":
        array = _parsed(name, as_text(array))
    _check_no_gaps(array, "bad_time", f"the time '{name}'")
    return array


def _parsed(name: str, texts: Array) -> Array:
    column = pa.array(np.char.strip(texts))
    if (times := _as_times(column)) is not None:
        return np.asarray(times.to_numpy(zero_copy_only=False))
    row = next((row for row in range(len(column)) if _as_times(column.slice(row, 1)) is None), None)
    shown = "of two kinds: some times have a zone and some have none" if row is None else f"{str(texts[row])[:60]!r}"
    where = "" if row is None else f" in row {row} (counted from 0)"
    raise BadDataset(
        "bad_time", f"the time '{name}' is {shown}{where}; numbers or ISO 8601 are needed, such as 2024-05-31 12:00"
    )


def _as_times(column: pa.Array) -> pa.Array | None:
    for kind in (pa.float64(), *_TIMES):
        with suppress(pa.ArrowInvalid):
            return column.cast(kind)
    return None


def _check_no_gaps(array: Array, code: str, what: str) -> None:
    if array.dtype.kind in "fM":
        missing = np.isnan(array) if array.dtype.kind == "f" else np.isnat(array)
    else:
        missing = np.asarray(array == array.dtype.type()) if array.dtype.kind in "SU" else np.zeros(len(array), bool)
    if (row := _first(missing)) is not None:
        raise BadDataset(code, f"{what} is empty in row {row} (counted from 0)")


def _first(wrong: NDArray[np.bool_]) -> int | None:
    rows = np.flatnonzero(wrong)
    return int(rows[0]) if len(rows) else None
