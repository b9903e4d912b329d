"""Columns of an Arrow batch as numpy arrays, one row each, over the same memory where the layout allows it.

Columns must have been validated. It knows no model: what a column may be called and which input it is stands in
`arrow`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from service.inference.formats.messages import refuse
from service.registry.errors import InvalidRequest

#: What `kind_of` knows, for messages.
READ = (
    "numbers, lists of numbers (list, large_list, fixed_size_list, fixed_shape_tensor), and binary or large_binary for "
    "image files; Polars writes these with compat_level=CompatLevel.oldest()"
)

_LISTS = {pa.list_(pa.int8()).id, pa.large_list(pa.int8()).id, pa.list_(pa.int8(), 1).id}
_BOOL = pa.bool_().id


def kind_of(data_type: Any) -> str | None:
    """What a column of this type holds, or None for what is never read.

    `number`, `tensor` (lists of numbers, of any depth), `files` (bytes, or a struct that has them), `text`, `time`.
    Raises InvalidRequest `invalid_arrow` for tensors that mean two things.
    """
    if isinstance(data_type, pa.FixedShapeTensorType):
        return "tensor" if _is_number(data_type.value_type) and _is_shaped(data_type) else None
    if _is_number(data_type):
        return "number"
    if _is_list(data_type):
        return "tensor" if _is_tensor(data_type) else None
    if _is_file(data_type):
        return "files"
    if _is_text(data_type):
        return "text"
    return "time" if pa.types.is_temporal(data_type) else None


def numbers(name: str, column: Any, *, first: int) -> np.ndarray:
    """The rows (N, *row) of a column of numbers or of lists of them; decimals become float64.

    Args:
        name: of the column, for messages.
        first: number of the column's first row in the request.

    Raises:
        InvalidRequest: `non_finite` for an empty cell, `wrong_shape` where lists differ in length; both with the row.
    """
    rows = len(column)
    shape: list[int] = []
    order: Sequence[int] | None = None
    _check_present(name, column, rows, first)
    if isinstance(column.type, pa.FixedShapeTensorType):
        shape, order = list(column.type.shape), column.type.permutation
        column, _ = _items(name, column.storage, rows, first)
        _check_present(name, column, rows, first)
    while _is_list(column.type):
        column, length = _items(name, column, rows, first)
        shape.append(length)
        _check_present(name, column, rows, first)
    made = _plain(column).reshape(rows, *shape)
    return made if order is None else made.transpose(0, *(place + 1 for place in order))


def cells(name: str, column: Any, *, first: int) -> np.ndarray:
    """The rows (N,) of a column of numbers; as `numbers`, and quicker."""
    _check_present(name, column, len(column), first)
    return _plain(column)


def side_by_side(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns (N,) each as (N, columns), of a type that holds all of them: as readers of datasets do it."""
    widest = np.result_type(*{column.dtype for column in columns})
    with np.errstate(invalid="ignore"):  # NaN of some bit patterns, which is refused later
        return np.concatenate(columns, dtype=widest).reshape(len(columns), -1).T


def files(column: Any, *, first: int) -> list[bytes]:
    """The bytes of every row; raises InvalidRequest `bad_image` for an empty cell."""
    if pa.types.is_struct(column.type):
        _check_files(column, first)
        column = column.field("bytes")
    _check_files(column, first)
    found: list[bytes] = column.to_pylist()
    return found


def _is_number(data_type: Any) -> bool:
    if pa.types.is_decimal(data_type):
        # A stream may claim any scale; beyond the precision Arrow's cast to floats reads past its table of powers.
        return bool(0 <= data_type.scale <= data_type.precision)
    is_number = pa.types.is_integer(data_type) or pa.types.is_floating(data_type)
    return bool(is_number or pa.types.is_boolean(data_type))


def _is_shaped(data_type: Any) -> bool:
    """Whether a tensor is what its lists hold; refuses orders of dimensions that are read in two ways.

    By the format `permutation` says where each dimension is to be found, by pyarrow's own writer where each one went,
    and pyarrow reads back neither: only what is its own inverse means the same to all.
    """
    shape, order = data_type.shape, data_type.permutation
    if min(shape, default=1) < 0 or math.prod(shape) != data_type.storage_type.list_size:
        return False
    places = list(range(len(shape)))
    if order is not None and [order[place] for place in order if place in places] != places:
        refuse(f"tensors with permutation {list(order)} are ambiguous; send them row by row (numpy.ascontiguousarray)")
    return True


def _is_list(data_type: Any) -> bool:
    return data_type.id in _LISTS


def _is_tensor(data_type: Any) -> bool:
    while _is_list(data_type):
        data_type = data_type.value_type
    return _is_number(data_type)


def _is_file(data_type: Any) -> bool:
    if not pa.types.is_struct(data_type):
        return _is_binary(data_type)
    fields = [data_type.field(place) for place in range(data_type.num_fields)]
    plain = all(_is_binary(field.type) or _is_text(field.type) for field in fields)
    return plain and [_is_binary(field.type) for field in fields if field.name == "bytes"] == [True]


def _is_binary(data_type: Any) -> bool:
    return bool(pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type))


def _is_text(data_type: Any) -> bool:
    return bool(pa.types.is_string(data_type) or pa.types.is_large_string(data_type))


def _plain(column: Any) -> np.ndarray:
    data_type = column.type
    if pa.types.is_decimal(data_type):
        column = column.cast(pa.float64(), safe=False)
    found: np.ndarray = column.to_numpy(zero_copy_only=data_type.id != _BOOL)
    return found


def _items(name: str, column: Any, rows: int, first: int) -> tuple[Any, int]:
    """What stands in lists that are all there, one list after the other, and the length of each."""
    if pa.types.is_fixed_size_list(column.type):
        length = int(column.type.list_size)
        return column.values.slice(column.offset * length, len(column) * length), length
    offsets = column.offsets.to_numpy()
    lengths = offsets[1:] - offsets[:-1]
    if lengths.size == 0:
        return column.values.slice(0, 0), 0
    odd = np.flatnonzero(lengths != lengths[0])
    if odd.size:
        row = first + int(odd[0]) * rows // len(column)
        found = f"a list of {lengths[odd[0]]} in row {row} and of {lengths[0]} in row {first}"
        raise _wrong_shape(f"the column {name!r} has {found}: all rows need one shape")
    return column.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])), int(lengths[0])


def _check_present(name: str, column: Any, rows: int, first: int) -> None:
    """Refuse empty cells; all rows have equally many values here."""
    if column.null_count:
        row = first + int(column.is_null().index(True).as_py()) * rows // len(column)
        raise InvalidRequest("non_finite", f"the column {name!r}, row {row}: an empty cell (null)", field="inputs")


def _check_files(column: Any, first: int) -> None:
    if column.null_count:
        row = first + int(column.is_null().index(True).as_py())
        raise InvalidRequest("bad_image", f"row {row}: an empty cell (null)", field="inputs")


def _wrong_shape(message: str) -> InvalidRequest:
    return InvalidRequest("wrong_shape", message, field="inputs")
