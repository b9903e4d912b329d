"""Rows of a model's input from the arrays and image files of a dataset: in its type, where its shape fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from fedlas.data.arrays import MEMORY_BYTES, ArrayFactory, pieces
from fedlas.data.dataset import Array, Integers
from fedlas.data.prepared import ImageColumn
from fedlas.errors import BadDataset, Mismatch
from fedlas.preprocessing import BadImage, Preprocessing, preprocess_all, usable_cores

_EXAMPLE = 'preprocessing={"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}'
_BLOCK_BYTES = 1 << 25

#: The sizes of an input, where a dimension that is no integer fits any size.
Shape = Sequence[int | str | None]


class InputSpec(TypedDict):
    """A model's input; the first entry of the shape is the batch."""

    name: str
    dtype: str
    shape: Shape


def fits(wanted: Shape, found: Sequence[int | None]) -> bool:
    """Whether sizes agree where both sides name them."""
    return len(wanted) == len(found) and all(
        not isinstance(size, int) or size < 0 or have is None or size == have
        for size, have in zip(wanted, found, strict=True)
    )


def cast(name: str, array: Array, spec: InputSpec, scratch: Path | None, *, first_row: int = 0) -> Array:
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


def taken(name: str, array: Array, places: Integers, scratch: Path | None) -> Array:
    """The columns (N, len(places)) of a matrix at these places; `scratch` as for `cast`."""
    return _in_pieces(name, array, lambda piece: piece[:, places], scratch)


def widened(name: str, array: Array, width: int, fill: float, scratch: Path | None) -> Array:
    """Rows (N, width, ...) that are filled behind the last entry; `scratch` as for `cast`."""

    def filled(piece: Array) -> Array:
        wide = np.full((len(piece), width, *piece.shape[2:]), fill, piece.dtype)
        wide[:, : piece.shape[1]] = piece
        return wide

    return _in_pieces(name, array, filled, scratch)


def _in_pieces(name: str, array: Array, change: Callable[[Array], Array], scratch: Path | None) -> Array:
    """What becomes of the rows, in a file where it is larger than 64 MiB."""
    if scratch is None or not len(array) or len(array) * change(array[:1]).nbytes <= MEMORY_BYTES:
        return change(array)
    with ArrayFactory(scratch, allow_nan=True).builder(name) as rows:
        for piece in pieces(array):
            rows.append(change(piece))
        return rows.finish()


def shown(spec: InputSpec) -> str:
    """The input in a sentence."""
    return f"'{spec['name']}' {spec['dtype']} {tuple(spec['shape'])}"


def described(name: str, array: Array) -> str:
    """An array of a dataset in a sentence."""
    return f"'{name}' {array.dtype.name} {('N', *array.shape[1:])}"


def check_preprocessing(preprocessing: Preprocessing, model_inputs: Sequence[InputSpec]) -> None:
    """Raise Mismatch `preprocessing_mismatch` unless some input of the model takes what the preprocessing makes."""
    faults = [_unfit(preprocessing, spec) for spec in model_inputs]
    if None not in faults:
        raise Mismatch("preprocessing_mismatch", str(faults[0]))


def pixels(
    name: str, images: ImageColumn, spec: InputSpec, preprocessing: Preprocessing | None, scratch: Path | None
) -> Array:
    """What the model's preprocessing makes of the files, block by block."""
    if preprocessing is None:
        raise Mismatch(
            "preprocessing_needed",
            f"the dataset's '{name}' are image files, but the model does not say how they become {shown(spec)}; "
            f"send it again with its preprocessing, for example {_EXAMPLE}",
        )
    if (fault := _unfit(preprocessing, spec)) is not None:
        raise Mismatch("inputs_mismatch", fault)
    row = tuple(size for size in spec["shape"][1:] if isinstance(size, int) and size >= 0)
    if len(row) < len(spec["shape"]) - 1:
        row = _first_row(images, preprocessing)
    step = max(1, _BLOCK_BYTES // (4 * max(1, int(np.prod(row)))))
    with ArrayFactory(scratch, allow_nan=True).builder(name) as rows:
        rows.append(np.empty((0, *row), spec["dtype"]))
        for start in range(0, len(images), step):
            block = images[start : start + step]
            out = np.empty((len(block), *row), preprocessing.dtype)
            try:
                preprocess_all(block, preprocessing, workers=usable_cores(), out=out)
            except BadImage as error:
                raise _bad_image(name, images.place(start + (error.row or 0)), error) from error
            rows.append(cast(name, out, spec, None))
        return rows.finish()


def _first_row(images: ImageColumn, preprocessing: Preprocessing) -> tuple[int, ...]:
    """The shape that all rows must have, where neither the model nor the preprocessing fixes it."""
    try:
        return preprocess_all(images[:1], preprocessing, workers=1).shape[1:]
    except BadImage as error:
        raise _bad_image("images", images.place(0), error) from error


def _bad_image(name: str, row: int, error: BadImage) -> BadDataset:
    return BadDataset(error.code, f"'{name}', row {row} (counted from 0): {error.message}")


def _unfit(preprocessing: Preprocessing, spec: InputSpec) -> str | None:
    """A sentence where the model's input does not take what the preprocessing makes."""
    wanted, made = tuple(spec["shape"])[1:], preprocessing.shape
    text = f"the model's input {shown(spec)} does not fit what its preprocessing makes of an image: "
    text += f"{preprocessing.dtype} {tuple('any' if size is None else size for size in made)}"
    if not fits(wanted, made):
        other = "NHWC" if preprocessing.layout == "NCHW" else "NCHW"
        turned = replace(preprocessing, layout=other)
        return text + (f'; say "layout": "{other}"' if fits(wanted, turned.shape) else "")
    if np.dtype(spec["dtype"]).kind in "iub" and preprocessing.dtype != "uint8":
        return text + '; say "dtype": "uint8" for pixels from 0 to 255 as they are'
    return None
