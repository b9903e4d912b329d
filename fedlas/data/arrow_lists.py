"""Arrow lists of numbers, nested or not, as arrays with one shape for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedlas.data.arrow import is_numeric, numeric, stored, stored_type
from fedlas.data.dataset import Array, Integers
from fedlas.errors import BadDataset


def is_tensor(kind: Any) -> bool:
    """Whether this Arrow type is a list of numbers, of any depth and kind of list."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return True
    kind = stored_type(kind)
    if not _is_list(kind):
        return False
    return is_tensor(kind.value_type) or is_numeric(stored_type(kind.value_type))


def longest(column: Any) -> int:
    """The length of the longest list of a column."""
    column = stored(column)
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    return int(pc.max(pc.list_value_length(column)).as_py() or 0)


def tensor(name: str, column: Any, *, first: int, width: int | None = None, fill: float | None = None) -> Array:
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
        _check_permutation(name, column.type.permutation)
        dense: Array = column.to_numpy_ndarray()
        return dense
    if width is None or fill is None:
        return _dense(name, stored(column), rows)
    return _padded(name, stored(column), rows, width, fill)


def _check_permutation(name: str, order: Sequence[int] | None) -> None:
    """One that is not its own inverse (NHWC seen as NCHW) is read wrongly by pyarrow's `to_numpy_ndarray`."""
    if order is not None and [order[place] for place in order] != list(range(len(order))):
        found = f"'{name}' has tensors whose dimensions are stored in the order {list(order)}"
        raise BadDataset("unsupported_dtype", f"{found}; send them as they lie in memory (numpy.ascontiguousarray)")


def _dense(name: str, column: Any, rows: Integers) -> Array:
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


def _padded(name: str, column: Any, rows: Integers, width: int, fill: float) -> Array:
    lengths = _lengths(name, column, rows)
    inner = _dense(name, stored(column.flatten()), np.repeat(rows, lengths))
    if inner.dtype.kind != "f" and np.array(fill).astype(inner.dtype) != fill:
        raise BadDataset("bad_padding", f"'{name}' is {inner.dtype}, which {fill} is not: choose another padding")
    padded = np.full((len(column), width, *inner.shape[1:]), fill, inner.dtype)
    padded[np.arange(width) < lengths[:, None]] = inner
    return padded


def _lengths(name: str, column: Any, rows: Integers) -> Integers:
    _check_present(name, column, rows)
    if pa.types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    lengths: Integers = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _check_present(name: str, column: Any, rows: Integers) -> None:
    if column.null_count:
        row = int(rows[column.is_null().index(True).as_py()])
        raise BadDataset("non_finite", f"'{name}' is empty in row {row} (counted from 0); a list is needed")


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
