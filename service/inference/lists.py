"""Nested lists of JSON as arrays: quickly where they are what is needed, and looked at with care where they are not.

NumPy is not asked to make sense of them before it is known that all values are numbers: of a list of numbers with one
long text it would make an array of texts, each cell as long as that one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

#: `struct`'s letters; it takes whole numbers for floats, and refuses texts, null, and what does not fit.
_CODES: Mapping[str, str] = {
    "float16": "e", "float32": "f", "float64": "d",
    "int8": "b", "int16": "h", "int32": "i", "int64": "q",
    "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
}  # fmt: skip
_MOST_DIMENSIONS = 32


def packed(rows: list[object], sizes: Sequence[int | str], dtype: str) -> np.ndarray | None:
    """(len(rows), *sizes) of this type, finite; None where the rows are not plainly that. Texts in `sizes` are open.

    >>> packed([[1, 2.5], [3, 4]], [2], "float32")
    array([[1. , 2.5],
           [3. , 4. ]], dtype=float32)
    >>> packed([[1, 2.5], [3]], [2], "float32") is packed([[1, "2"]], [2], "float32") is None
    True
    """
    code = _CODES.get(dtype)
    if code is None or not rows:
        return None
    values, shape = rows, [len(rows)]
    for wanted in sizes:
        first = values[0]
        size = len(first) if type(first) is list else 0
        if size == 0 or not (size == wanted or isinstance(wanted, str)):
            return None
        if len(values) == 1:
            values = first  # type: ignore[assignment]
        else:
            if any(type(part) is not list or len(part) != size for part in values):
                return None
            values = list(chain.from_iterable(values))  # type: ignore[arg-type]
        shape.append(size)
    if type(values[0]) is bool:
        return None
    try:
        flat = struct.pack(f"={len(values)}{code}", *values)
    except (struct.error, OverflowError):
        return None
    array = np.frombuffer(flat, dtype=dtype).reshape(shape)
    # JSON has no infinities, but some readers of it let them through. (`all` takes twice the time for one row.)
    sound = code not in "efd" or np.count_nonzero(np.isfinite(array)) == array.size
    return array if sound else None


def shape_of(value: object) -> tuple[int, ...] | None:
    """The sizes of nested lists, () of anything else; None where they are ragged, or nested beyond reason."""
    sizes: list[int] = []
    values = [value]
    while any(type(part) is list for part in values):
        lengths = {len(part) if isinstance(part, list) else -1 for part in values}
        if len(lengths) > 1 or len(sizes) == _MOST_DIMENSIONS:
            return None
        sizes.append(lengths.pop())
        values = list(chain.from_iterable(values))  # type: ignore[arg-type]
    return tuple(sizes)


def only_numbers(value: object) -> bool:
    """Whether all that lies in nested lists is numbers, true or false."""
    values = [value]
    while lists := [part for part in values if type(part) is list]:
        if any(not isinstance(part, list | int | float) for part in values):
            return False
        values = list(chain.from_iterable(lists))
    return all(isinstance(part, int | float) for part in values)
