"""Arrow columns as numpy arrays, one value per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset

#: A text column stands in memory, as wide as its longest cell.
MAX_TEXT_BYTES = 1 << 30
_CELLS = 1 << 16


def is_numeric(kind: Any) -> bool:
    """Whether values of this Arrow type are numbers (or true and false)."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def is_text(kind: Any) -> bool:
    """Whether values of this Arrow type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def stored_type(kind: Any) -> Any:
    """The type of the values themselves, beneath extensions and dictionaries."""
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    return stored_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def stored(column: Any) -> Any:
    """The same column as its `stored_type`."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([stored(chunk) for chunk in column.chunks], stored_type(column.type))
    if isinstance(column.type, pa.BaseExtensionType):
        return stored(column.storage)
    return stored(column.dictionary_decode()) if pa.types.is_dictionary(column.type) else column


def numeric(column: Any) -> Array:
    """Numbers (n,) in their own type; decimals become float64, and so do integers and booleans with empty cells."""
    kind = column.type
    if pa.types.is_decimal(kind) or (column.null_count and not pa.types.is_floating(kind)):
        column = column.cast(pa.int8() if pa.types.is_boolean(kind) else kind).cast(pa.float64(), safe=False)
    if pa.types.is_floating(column.type) and column.null_count:
        column = pc.fill_null(column, pa.scalar(float("nan"), column.type))
    array = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    return np.asarray(array)


def text_array(name: str, column: Any) -> Array:
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


def single_values(name: str, column: Any) -> Array:
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
    if is_text(kind):
        return text_array(name, column)
    raise BadDataset("unsupported_dtype", f"the column '{name}' is {kind}; numbers, text or times are needed")
