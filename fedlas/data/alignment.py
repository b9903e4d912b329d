"""Alignment of a dataset with a model's inputs and classes, or an error that shows both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.data.casting import InputSpec, Shape, cast, described, fits, pixels, shown, taken, widened
from fedlas.data.dataset import Array, Dataset, Integers
from fedlas.data.prepared import ImageColumn
from fedlas.data.roles import ColumnOrder
from fedlas.errors import Mismatch
from fedlas.preprocessing import Preprocessing

#: Names under which a dataset's main array is known when the model calls its only input otherwise.
SINGLE_INPUT_NAMES = ("inputs", "x", "X", "images", "data")


def align(
    dataset: Dataset,
    *,
    model_inputs: Sequence[InputSpec],
    num_classes: int,
    class_names: Sequence[str],
    class_names_given: bool,
    preprocessing: Preprocessing | None = None,
    columns: Sequence[str] | None = None,
    reading: Mapping[str, Any] | None = None,
    scratch: Path | None = None,
) -> Dataset:
    """The same rows, with inputs in the model's order and types and targets in the model's classes.

    Image files become pixels by the model's preprocessing; arrays of numbers are taken as they are, whether the model
    has one or not. Columns that both sides name are put into the model's order.

    Args:
        class_names: the model's names, which count only if its owner gave them (`class_names_given`).
        preprocessing: the model's, for images.
        columns: the model's names of the columns of its single input.
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
    unused = [f"'{name}' is not used: the model has no such input" for name in dataset.inputs if name not in used]
    targets, names = _classes(dataset, num_classes, list(class_names) if class_names_given else None)
    return replace(
        dataset,
        inputs=inputs,
        targets=targets,
        class_names=names,
        class_names_given=dataset.class_names_given or class_names_given,
        matched_by="name" if dataset.class_names_given and class_names_given else "index",
        label_names=None if dataset.class_names_given else [str(i) for i in range(num_classes)],
        warnings=[*dataset.warnings, *unused],
        adjustments=[*dataset.adjustments, *order.adjustments],
        columns=order.names,
        reading=merged,
    )


def align_inputs(
    inputs: Mapping[str, Array],
    model_inputs: Sequence[InputSpec],
    *,
    preprocessing: Preprocessing | None = None,
    order: ColumnOrder | None = None,
    fills: Mapping[str, float] | None = None,
    scratch: Path | None = None,
    first_row: int = 0,
) -> dict[str, Array]:
    """The inputs alone, in the model's order and types, for rows whose labels do not matter; raises as `align` does.

    Args:
        order: of the columns, where they have names.
        fills: model input -> the number that fills rows which are shorter than the model's.
        first_row: the number of the first of these rows in what the owner sent, for errors.
    """
    order = ColumnOrder() if order is None else order
    aligned = {}
    for name, spec in _matched(inputs, model_inputs):
        array = inputs[name] if order.places is None else taken(name, inputs[name], order.places, scratch)
        if isinstance(array, ImageColumn):
            aligned[spec["name"]] = pixels(name, array, spec, preprocessing, scratch)
            continue
        wanted = tuple(spec["shape"])[1:]
        fill, width = (fills or {}).get(spec["name"]), wanted[0] if wanted else None
        if fill is not None and array.ndim >= 2 and isinstance(width, int) and array.shape[1] < width:
            array = widened(name, array, width, fill, scratch)
        found = array.shape[1:]
        if not fits(wanted, found):
            raise Mismatch(
                "inputs_mismatch",
                f"the model's input {shown(spec)} does not fit the dataset's {described(name, array)}"
                + (_reshape_hint(wanted, found) or order.described),
            )
        aligned[spec["name"]] = cast(name, array, spec, scratch, first_row=first_row)
    return aligned


def used_inputs(inputs: Mapping[str, Array], model_inputs: Sequence[InputSpec]) -> dict[str, str]:
    """The name of the model's input for each of a dataset's that it takes; raises as `align` does."""
    return {name: spec["name"] for name, spec in _matched(inputs, model_inputs)}


def _matched(inputs: Mapping[str, Array], model_inputs: Sequence[InputSpec]) -> list[tuple[str, InputSpec]]:
    """Pairs of a dataset's input and a model's input."""
    wanted = [spec["name"] for spec in model_inputs]
    if all(name in inputs for name in wanted):
        return list(zip(wanted, model_inputs, strict=True))
    usual = [name for name in SINGLE_INPUT_NAMES if name in inputs]
    single = list(inputs) if len(inputs) == 1 else usual
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

    Args:
        matched: the model's input for each of the dataset's.

    Raises:
        Mismatch: `padding_mismatch` where the two fill shorter rows with different numbers.
    """
    if dataset is None or model is None:
        return _by_input(dataset, matched) if model is None else dict(model)
    found, wanted = _by_input(dataset, matched) or {}, model.get("padding") or {}
    padding = found.get("padding") or {}
    for name in padding.keys() & wanted.keys():
        if padding[name] != wanted[name]:
            raise Mismatch(
                "padding_mismatch",
                f"the dataset's '{name}' is padded with {padding[name]}, the model's rows with {wanted[name]}; "
                f'send the dataset with padding={{"{name}": {wanted[name]}}}',
            )
    missing = "nan" if "nan" in (found.get("missing"), model.get("missing")) else "reject"
    return {"padding": {**wanted, **padding} or None, "missing": missing}


def _by_input(reading: Mapping[str, Any] | None, matched: Mapping[str, str]) -> dict[str, Any] | None:
    """The same reading with the model's names of inputs; what is no input of the model needs no padding."""
    if reading is None:
        return None
    padding = {matched[name]: fill for name, fill in (reading.get("padding") or {}).items() if name in matched}
    return {**reading, "padding": padding or None}


def _reshape_hint(wanted: Shape, found: tuple[int, ...]) -> str:
    sizes = [size for size in wanted if isinstance(size, int)]
    if wanted and found and len(sizes) == len(wanted) and np.prod(sizes) == np.prod(found):
        if len(wanted) == len(found) and sorted(sizes) == sorted(found):  # to reshape it would scramble an image
            axes = ", ".join(str(1 + place) for place in _places(sizes, found))
            return f"; transpose every row to {wanted} before sending: array.transpose(0, {axes})"
        return f"; reshape every row to {wanted} before sending"
    return ""


def _places(wanted: Sequence[int], found: tuple[int, ...]) -> list[int]:
    """Where each size stands among those that were found, each once, in their order."""
    left = list(enumerate(found))
    places = []
    for size in wanted:
        place = next(one for one in left if one[1] == size)
        left.remove(place)
        places.append(place[0])
    return places


def _classes(dataset: Dataset, num_classes: int, model_names: list[str] | None) -> tuple[Integers, list[str]]:
    """Targets in the model's numbering and the names that go with it."""
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
        row = int(np.argmax(dataset.targets >= num_classes))
        why = f"row {row} (counted from 0) has label {dataset.targets[row]}"
        if dataset.targets.min() == 1 and dataset.targets.max() == num_classes:
            why = f"the labels start at 1: subtract 1; {why}"
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
