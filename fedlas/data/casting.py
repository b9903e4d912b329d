"""Shapes and number types of a model's input: whether an array fits, and the array in the input's type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.data.array_builder import MEMORY_BYTES, ArrayFactory
from fedlas.data.dataset import Array
from fedlas.data.memmap import pieces
from fedlas.errors import BadDataset, Mismatch

#: `name`, `dtype` and `shape` of a model's input; the first entry of the shape is the batch.
Spec = Mapping[str, Any]


def fits(wanted: tuple[Any, ...], found: tuple[int | None, ...]) -> bool:
    """Whether sizes agree where both sides name them."""
    return len(wanted) == len(found) and all(
        not isinstance(size, int) or size < 0 or have is None or size == have
        for size, have in zip(wanted, found, strict=True)
    )


def cast(name: str, array: Array, spec: Spec, scratch: Path | None, *, first_row: int = 0) -> Array:
    """Float widths, integers and pixels become the input's float type unscaled; integers stay integers.

    Args:
        scratch: folder for the result where it is larger than 64 MiB; None makes it in memory.
        first_row: the number of the first row, for errors.

    Raises:
        Mismatch: `inputs_mismatch` where floats or too large integers meet an integer input.
        BadDataset: `non_finite` where a number is too large for the type, with its row.
    """
    dtype = np.dtype(spec["dtype"])
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f" and dtype.kind != "f":
        raise Mismatch(
            "inputs_mismatch",
            f"the model's input {shown(spec)} takes integers, the dataset's {described(name, array)} is floats",
        )
    if scratch is None or array.size * dtype.itemsize <= MEMORY_BYTES:
        return _cast_rows(name, array, dtype, first_row=first_row)
    rows = first_row
    with ArrayFactory(scratch, allow_nan=True).builder(name) as cast:
        for piece in pieces(array):
            cast.append(_cast_rows(name, piece, dtype, first_row=rows))
            rows += len(piece)
        return cast.finish()


def _cast_rows(name: str, array: Array, dtype: np.dtype[Any], *, first_row: int) -> Array:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        if array.dtype.kind == "f" and (lost := np.isinf(cast)).any():
            row = first_row + int(np.argwhere(lost)[0][0])
            raise BadDataset("non_finite", f"'{name}' is too large for {dtype} in row {row} (counted from 0)")
        return cast
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise Mismatch(
            "inputs_mismatch",
            f"'{name}' goes from {array.min()} to {array.max()}, the model's {dtype} from {low} to {high}",
        )
    return array.astype(dtype)


def shown(spec: Spec) -> str:
    """The input in a sentence."""
    return f"'{spec['name']}' {spec['dtype']} {tuple(spec['shape'])}"


def described(name: str, array: Array) -> str:
    """An array of a dataset in a sentence."""
    return f"'{name}' {array.dtype.name} {('N', *array.shape[1:])}"
