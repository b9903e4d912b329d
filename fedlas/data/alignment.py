"""Alignment of a dataset with a model's inputs and classes, or an error that shows both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.contract.profiles import TensorSpec
from fedlas.data.arrays import MEMORY_BYTES, ArrayFactory, pieces
from fedlas.data.dataset import Array, Dataset, Integers
from fedlas.data.prepared import ImageColumn
from fedlas.data.roles import ColumnOrder
from fedlas.errors import BadDataset, Mismatch
from fedlas.preprocessing import BadImage, Preprocessing, preprocess_all, usable_cores

#: Names under which a dataset's main array is known when the model calls its only input otherwise.
SINGLE_INPUT_NAMES = ("inputs", "x", "X", "images", "data")


def align(
    dataset: Dataset,
    *,
    model_inputs: Sequence[TensorSpec],
    num_classes: int,
    class_names: Sequence[str] | None,
    preprocessing: Preprocessing | None = None,
    columns: Sequence[str] | None = None,
    reading: Mapping[str, Any] | None = None,
    scratch: Path | None = None,
) -> Dataset:
    """Align the rows: inputs in the model's order and types, and targets in the model's classes.

    Image files become pixels by the model's preprocessing; arrays of numbers are taken as they are, whether the model
    has one or not. Columns that both sides name are put into the model's order.

    Args:
        class_names: of the model, in the order of its outputs; None where its owner gave none.
        reading: how the model's rows are read, where it is known (`padding` by input, `missing`).
        scratch: folder for arrays of more than 64 MiB that have to be made; None makes them in memory.

    Raises:
        Mismatch: `inputs_mismatch`, `columns_mismatch`, `padding_mismatch`, `class_mismatch` or `preprocessing_needed`,
            both sides shown.
        BadDataset: `unlabelled_dataset`; `non_finite` where a number is too large for the model's type; the code of a
            `BadImage`.
    """
    dataset.require()
    order = ColumnOrder.of_dataset(dataset, columns)
    used = used_inputs(dataset.inputs, model_inputs)
    merged = merged_reading(dataset.reading, reading, used)
    inputs = align_inputs(
        *(dataset.inputs, model_inputs),
        preprocessing=preprocessing,
        order=order,
        fills=(merged or {}).get("padding"),
        scratch=scratch,
    )
    unused = (f"'{name}' is not used: the model has no such input" for name in dataset.inputs if name not in used)
    targets, names = _classes(dataset, num_classes, None if class_names is None else list(class_names))
    return replace(
        dataset,
        inputs=inputs,
        targets=targets,
        class_names=names,
        class_names_given=dataset.class_names_given or class_names is not None,
        matched_by="name" if dataset.class_names_given and class_names is not None else "index",
        label_names=None if dataset.class_names_given else [str(i) for i in range(num_classes)],
        warnings=[*dataset.warnings, *unused],
        adjustments=[*dataset.adjustments, *order.adjustments],
        columns=order.names,
        reading=merged,
    )


def align_inputs(
    inputs: Mapping[str, Array],
    model_inputs: Sequence[TensorSpec],
    *,
    preprocessing: Preprocessing | None = None,
    order: ColumnOrder | None = None,
    fills: Mapping[str, float] | None = None,
    scratch: Path | None = None,
    first_row: int = 0,
) -> dict[str, Array]:
    """The inputs alone, in the model's order and types, for rows whose labels do not matter; raises as `align` does.

    Args:
        fills: model input -> the number that fills rows which are shorter than the model's.
        first_row: the number of the first of these rows in what the owner sent, for errors.
    """
    order = ColumnOrder() if order is None else order
    aligned = {}
    for name, spec in _matched(inputs, model_inputs):
        array = inputs[name] if order.places is None else taken(name, inputs[name], order.places, scratch)
        if isinstance(array, ImageColumn):
            aligned[spec.name] = pixels(name, array, spec, preprocessing, scratch)
            continue
        wanted = tuple(spec.shape)[1:]
        fill, width = (fills or {}).get(spec.name), wanted[0] if wanted else None
        if fill is not None and array.ndim >= 2 and isinstance(width, int) and array.shape[1] < width:
            array = widened(name, array, width, fill, scratch)
        shape = array.shape[1:]
        if not fits(wanted, shape):
            raise Mismatch(
                "inputs_mismatch",
                f"the model's input {shown(spec)} does not fit the dataset's {described(name, array)}"
                + (_reshape_hint(wanted, shape) or order.described),
            )
        aligned[spec.name] = cast(name, array, spec, scratch, first_row=first_row)
    return aligned


def used_inputs(inputs: Mapping[str, Array], model_inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """The name of the model's input for each of a dataset's that it takes; raises as `align` does."""
    return {name: spec.name for name, spec in _matched(inputs, model_inputs)}


def _matched(inputs: Mapping[str, Array], model_inputs: Sequence[TensorSpec]) -> list[tuple[str, TensorSpec]]:
    wanted = [spec.name for spec in model_inputs]
    if all(name in inputs for name in wanted):
        return list(zip(wanted, model_inputs, strict=True))
    single = list(inputs) if len(inputs) == 1 else [name for name in SINGLE_INPUT_NAMES if name in inputs]
    if len(wanted) != 1 or len(single) != 1:
        raise Mismatch(
            "inputs_mismatch",
            f"the model's inputs are {', '.join(map(shown, model_inputs))}; "
            f"the dataset has {', '.join(described(n, a) for n, a in inputs.items())}",
        )
    return [(single[0], model_inputs[0])]


def merged_reading(
    dataset: Mapping[str, Any] | None, model: Mapping[str, Any] | None, matched: Mapping[str, str]
) -> dict[str, Any] | None:
    """How new rows of the model are to be read: as the dataset was, and as the model says itself.

    Raises:
        Mismatch: `padding_mismatch` where the two fill shorter rows with different numbers.
    """
    if dataset is None or model is None:
        return _by_input(dataset, matched) if model is None else dict(model)
    reading, wanted = _by_input(dataset, matched) or {}, model.get("padding") or {}
    padding = reading.get("padding") or {}
    for name in padding.keys() & wanted.keys():
        if padding[name] != wanted[name]:
            raise Mismatch(
                "padding_mismatch",
                f"the dataset's '{name}' is padded with {padding[name]}, the model's rows with {wanted[name]}; "
                f'send the dataset with padding={{"{name}": {wanted[name]}}}',
            )
    missing = "nan" if "nan" in (reading.get("missing"), model.get("missing")) else "reject"
    return {"padding": {**wanted, **padding} or None, "missing": missing}


def _by_input(reading: Mapping[str, Any] | None, matched: Mapping[str, str]) -> dict[str, Any] | None:
    """The reading by the model's names of inputs; others need no padding."""
    if reading is None:
        return None
    padding = {matched[name]: fill for name, fill in (reading.get("padding") or {}).items() if name in matched}
    return {**reading, "padding": padding or None}


def _reshape_hint(wanted: Shape, shape: tuple[int, ...]) -> str:
    sizes = [size for size in wanted if isinstance(size, int)]
    if wanted and shape and len(sizes) == len(wanted) and np.prod(sizes) == np.prod(shape):
        if len(wanted) == len(shape) and sorted(sizes) == sorted(shape):  # to reshape it would scramble an image
            axes = ", ".join(str(1 + place) for place in _places(sizes, shape))
            return f"; transpose every row to {wanted} before sending: array.transpose(0, {axes})"
        return f"; reshape every row to {wanted} before sending"
    return ""


def _places(wanted: Sequence[int], shape: tuple[int, ...]) -> list[int]:
    """Where each size stands among those that were found, each once, in their order."""
    left = list(enumerate(shape))
    places = []
    for size in wanted:
        place = next(one for one in left if one[1] == size)
        left.remove(place)
        places.append(place[0])
    return places


def _classes(dataset: Dataset, num_classes: int, model_names: list[str] | None) -> tuple[Integers, list[str]]:
    if dataset.class_names_given and model_names is not None:
        places = {name: i for i, name in enumerate(model_names)}
        unknown = [name for name in dataset.class_names if name not in places]
        if unknown:
            renamed = len(dataset.class_names) == num_classes
            remedy = ": if these are the same classes, send class_names=… in the order of its outputs" * renamed
            raise _class_mismatch(dataset, num_classes, model_names, f"the model does not know {unknown[:50]}{remedy}")
        table = np.array([places[name] for name in dataset.class_names], dtype=np.int64)
        return table[dataset.targets], model_names
    if dataset.class_names_given:
        if len(dataset.class_names) != num_classes:
            why = "name the model's classes (class_names), so that labels can be mapped by name"
            raise _class_mismatch(dataset, num_classes, model_names, why)
        return dataset.targets, list(dataset.class_names)
    if int(dataset.targets.max()) >= num_classes:
        beyond = np.flatnonzero(dataset.targets >= num_classes)
        why = f"row {beyond[0]} (counted from 0) has label {dataset.targets[beyond[0]]}"
        if dataset.targets.min() == 1 and dataset.targets.max() == num_classes:
            why = f"the labels start at 1: subtract 1; {why}"
        else:
            why = f"{why}, one of {len(beyond)} rows whose class the model lacks: leave these out"
        raise _class_mismatch(dataset, num_classes, model_names, why)
    return dataset.targets, model_names or [str(i) for i in range(num_classes)]


def _class_mismatch(dataset: Dataset, num_classes: int, model_names: list[str] | None, why: str) -> Mismatch:
    def some(names: Sequence[str]) -> str:
        return ", ".join(names[:50]) + (", ..." if len(names) > 50 else "")

    model = f": {some(model_names)}" if model_names else ", unnamed"
    met = np.bincount(dataset.targets, minlength=len(dataset.class_names))
    names = [name for name, rows in zip(dataset.class_names, met, strict=True) if rows or dataset.class_names_given]
    return Mismatch(
        "class_mismatch",
        f"{why}; the model has {num_classes} classes{model}; the dataset has {len(names)}: {some(names)}",
    )


_EXAMPLE = 'preprocessing={"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}'
_BLOCK_BYTES = 1 << 25
#: The sizes of an input, where a dimension that is no integer fits any size.
Shape = Sequence[int | str]


def fits(wanted: Shape, shape: Sequence[int | None]) -> bool:
    """True where sizes agree as far as both sides name them."""
    return len(wanted) == len(shape) and all(
        not isinstance(size, int) or size < 0 or have is None or size == have
        for size, have in zip(wanted, shape, strict=True)
    )


def cast(name: str, array: Array, spec: TensorSpec, scratch: Path | None, *, first_row: int = 0) -> Array:
    """Float widths, integers and pixels become the input's float type unscaled; integers stay integers.

    Args:
        scratch: folder for the result where it is larger than 64 MiB; None makes it in memory.
        first_row: the number of the first row, for errors.

    Raises:
        Mismatch: `inputs_mismatch` where floats or too large integers meet an integer input.
        BadDataset: `non_finite` where a number is too large for the type, with its row.
    """
    dtype = np.dtype(spec.dtype)
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
    """Change the rows in pieces, in a file where the result is larger than 64 MiB."""
    if scratch is None or not len(array) or len(array) * change(array[:1]).nbytes <= MEMORY_BYTES:
        return change(array)
    with ArrayFactory(scratch, allow_nan=True).builder(name) as rows:
        for piece in pieces(array):
            rows.append(change(piece))
        return rows.finish()


def shown(spec: TensorSpec) -> str:
    return f"'{spec.name}' {spec.dtype} {tuple(spec.shape)}"


def described(name: str, array: Array) -> str:
    return f"'{name}' {array.dtype.name} {('N', *array.shape[1:])}"


def check_preprocessing(preprocessing: Preprocessing, model_inputs: Sequence[TensorSpec]) -> None:
    """Raise Mismatch `preprocessing_mismatch` unless some input of the model takes what the preprocessing makes."""
    faults = [_unfit(preprocessing, spec) for spec in model_inputs]
    if None not in faults:
        raise Mismatch("preprocessing_mismatch", str(faults[0]))


def pixels(
    name: str, images: ImageColumn, spec: TensorSpec, preprocessing: Preprocessing | None, scratch: Path | None
) -> Array:
    """Preprocess the image files for the model, block by block."""
    if preprocessing is None:
        raise Mismatch(
            "preprocessing_needed",
            f"the dataset's '{name}' are image files, but the model does not say how they become {shown(spec)}; "
            f"send it again with its preprocessing, for example {_EXAMPLE}",
        )
    if (fault := _unfit(preprocessing, spec)) is not None:
        raise Mismatch("inputs_mismatch", fault)
    row = tuple(size for size in spec.shape[1:] if isinstance(size, int) and size >= 0)
    if len(row) < len(spec.shape) - 1:
        row = _first_row(images, preprocessing)
    step = max(1, _BLOCK_BYTES // (4 * max(1, int(np.prod(row)))))
    with ArrayFactory(scratch, allow_nan=True).builder(name) as rows:
        rows.append(np.empty((0, *row), spec.dtype))
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


def _unfit(preprocessing: Preprocessing, spec: TensorSpec) -> str | None:
    """A sentence where the model's input does not take what the preprocessing makes."""
    wanted, made = tuple(spec.shape)[1:], preprocessing.shape
    text = (
        f"the model's input {shown(spec)} does not fit what its preprocessing makes of an image: "
        f"{preprocessing.dtype} {tuple('any' if size is None else size for size in made)}"
    )
    if not fits(wanted, made):
        other = "NHWC" if preprocessing.layout == "NCHW" else "NCHW"
        turned = fits(wanted, preprocessing.changed(layout=other).shape)
        return f'{text}; say "layout": "{other}"' if turned else text
    if np.dtype(spec.dtype).kind in "iub" and preprocessing.dtype != "uint8":
        return text + '; say "dtype": "uint8" for pixels from 0 to 255 as they are'
    return None
