"""Rows of a prepared dataset in the order of the owner's file, as a model takes them, block by block; it runs none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.data import align_inputs, load_dataset, used_inputs
from fedlas.data.alignment import merged_reading
from fedlas.data.arrays import non_finite
from fedlas.data.casting import InputSpec, Shape
from fedlas.data.dataset import Array
from fedlas.data.labels import as_text
from fedlas.data.prepared import ImageColumn
from fedlas.data.roles import ColumnOrder
from fedlas.errors import FedLASError
from fedlas.preprocessing import Preprocessing
from service.registry.documents import ModelProfile
from worker.inside.file_order import Block, in_file_order

#: Larger arrays stay in the file: what is not read (labels, splits, ids) takes no memory.
_MAPPED_FROM = 1 << 20
#: What the rows of a block may take as the model's inputs and as its answers; the network takes a multiple of it.
_BLOCK_BYTES = 1 << 22
_MOST_ROWS = 1 << 12
#: A whole number is most often a token, of which the first layer makes a vector.
_TOKEN_BYTES = 1 << 12
_BYTES_PER_CLASS = 32
#: So many images tell how large they are.
_SAMPLE = 64

#: Why a row cannot be answered, by its number in the owner's file.
Errors: TypeAlias = dict[int, FedLASError]


@dataclass(frozen=True)
class AlignedRows:
    """Neighbouring rows of the owner's file.

    Attributes:
        ids: the owner's names of all of them, where there are any.
        inputs: by name, of those without an error; none where all have one.
        errors: of a row that cannot be what the model takes, by its number.
    """

    first_row: int
    count: int
    ids: Array | None
    inputs: dict[str, Array]
    errors: Errors

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Of the rows without an error."""
        return unlisted(np.arange(self.first_row, self.first_row + self.count), self.errors)


class ModelRows:
    """All rows of a prepared copy as a model takes them.

    Args:
        tolerant: rows that cannot be what the model takes have an error, which is raised otherwise.

    Raises:
        Mismatch: the rows do not fit the model's inputs.
        BadDataset: a number does not fit the model's type or is none, or an image cannot be decoded.
    """

    def __init__(self, path: str | Path, profile: ModelProfile, *, tolerant: bool = False) -> None:
        self._dataset, self._tolerant = load_dataset(path, mapped_from=_MAPPED_FROM), tolerant
        given = profile.preprocessing
        self._preprocessing = None if given is None else Preprocessing.parse(given.stored())
        self._specs = [InputSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in profile.inputs]
        self._used = used_inputs(self._dataset.inputs, self._specs)
        told = None if profile.reading is None else profile.reading.model_dump()
        self._reading = merged_reading(self._dataset.reading, told, self._used) or {}
        self._order = ColumnOrder.of_dataset(self._dataset, profile.columns)
        self._fitted({name: self._dataset.inputs[name][:0] for name in self._used}, 0)
        first = self._first_row()
        for spec in self._specs:
            if spec["name"] in first:
                spec["shape"] = ["N", *first[spec["name"]].shape[1:]]
        taken = sum(map(_bytes_of_row, first.values())) + sum(map(_bytes_of_files, self._dataset.inputs.values()))
        taken += _BYTES_PER_CLASS * len(profile.class_names)
        self._step = max(1, min(_MOST_ROWS, _BLOCK_BYTES // taken))

    def __len__(self) -> int:
        return len(self._dataset)

    def blocks(self, rows: range) -> Iterator[AlignedRows]:
        """These rows of the owner's file, in its order; raises as the class does."""
        for block, ids in zip(in_file_order(self._dataset, self._step, rows=rows), self._ids(rows), strict=True):
            inputs, errors = self._aligned(block)
            yield AlignedRows(block.first_row, block.count, ids, inputs, errors)
            for column in self._dataset.inputs.values():
                if isinstance(column, ImageColumn):
                    column.release()

    def _ids(self, rows: range) -> Iterator[Array | None]:
        """The owner's names of the rows of each block."""
        if self._dataset.ids is None:
            yield from repeat(None, -(-len(rows) // self._step))
            return
        named = replace(self._dataset, inputs={"id": self._dataset.ids})
        for block in in_file_order(named, self._step, rows=rows):
            ids = block["id"]
            yield as_text(ids) if ids.dtype.kind == "S" else ids

    def _first_row(self) -> dict[str, Array]:
        """A row of the model's inputs; sizes that it leaves open are those of the first row of the file with any."""
        fixed = {spec["name"]: _fixed(spec["shape"]) for spec in self._specs}
        if all(sizes is not None for sizes in fixed.values()):
            return {spec["name"]: np.empty((1, *(fixed[spec["name"]] or ())), spec["dtype"]) for spec in self._specs}
        some = map(self._aligned, in_file_order(self._dataset, 1))
        return next((inputs for inputs, _ in some if inputs), {})

    def _aligned(self, block: Block) -> tuple[dict[str, Array], Errors]:
        rows = {name: block[name] for name in self._used}
        errors = {} if self._dataset.labelled else self._not_finite(rows, block.first_row)
        if errors and not self._tolerant:
            raise errors[min(errors)]
        numbers = unlisted(np.arange(block.first_row, block.first_row + block.count), errors)
        if errors:
            rows = {name: array[numbers - block.first_row] for name, array in rows.items()}
        return by_halves(self._fitted, rows, numbers, errors if self._tolerant else None), errors

    def _fitted(self, rows: Mapping[str, Array], first_row: int) -> dict[str, Array]:
        return align_inputs(
            *(rows, self._specs),
            preprocessing=self._preprocessing,
            order=self._order,
            fills=self._reading.get("padding"),
            first_row=first_row,
        )

    def _not_finite(self, rows: Mapping[str, Array], first_row: int) -> Errors:
        """The errors of rows that hold a number which is none; inspection lets no labelled row hold one."""
        errors: Errors = {}
        missing = self._reading.get("missing")
        for name, array in rows.items():
            if isinstance(array, ImageColumn) or array.dtype.kind != "f":
                continue
            wrong = np.isinf(array) if missing == "nan" else ~np.isfinite(array)
            for i in np.flatnonzero(wrong.reshape(len(array), -1).any(axis=1)) if wrong.any() else ():
                place = (int(i), *map(int, np.argwhere(wrong[i])[0]))
                columns = self._dataset.columns if array.shape[1:] == (len(self._dataset.columns or ()),) else None
                row = first_row + place[0]
                errors.setdefault(row, non_finite(name, array[place], (row, *place[1:]), columns=columns))
        return errors


def by_halves(
    work: Callable[[Mapping[str, Array], int], dict[str, Array]],
    rows: Mapping[str, Array],
    numbers: NDArray[np.int64],
    errors: Errors | None,
) -> dict[str, Array]:
    """What `work` makes of rows and the number of the first; refused ones are tried by halves, down to single rows.

    So what is only too much at once is done in parts. `errors` takes the error of every refused row by its number, and
    the result lacks that row; None raises the first.
    """
    try:
        return work(rows, int(numbers[0])) if len(numbers) else {}
    except FedLASError as error:
        if len(numbers) == 1:
            if errors is None:
                raise
            errors[int(numbers[0])] = error
            return {}
    half = len(numbers) // 2
    found = [
        by_halves(work, {name: array[part] for name, array in rows.items()}, numbers[part], errors)
        for part in (slice(half), slice(half, None))
    ]
    upper, lower = found
    if not upper or not lower:
        return upper or lower
    return {name: np.concatenate([upper[name], lower[name]]) for name in upper}


def unlisted(numbers: NDArray[np.int64], errors: Errors) -> NDArray[np.int64]:
    """Those of the rows that have no error."""
    return numbers[~np.isin(numbers, list(errors))] if errors else numbers


def _fixed(shape: Shape) -> tuple[int, ...] | None:
    """The sizes of a row, or None where the model leaves one open."""
    sizes = tuple(size for size in shape[1:] if isinstance(size, int) and size >= 0)
    return sizes if len(sizes) == len(shape) - 1 else None


def _bytes_of_row(array: Array) -> int:
    token = array.dtype.kind in "iu" and array.itemsize > 2
    return array[:1].size * max(array.itemsize, _TOKEN_BYTES if token else 0)


def _bytes_of_files(column: Array) -> int:
    """Bytes that a row takes as it was sent, where that is a file of its own."""
    some = column[:_SAMPLE]
    return some.nbytes // len(some) if isinstance(some, ImageColumn) else 0
