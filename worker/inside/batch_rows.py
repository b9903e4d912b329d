"""Rows of a prepared dataset in the order of the owner's file, as a model takes them, block by block; it runs none.

In a prepared copy the rows are sorted by split, and within a split they stand as in the owner's file. So the next rows
of the file are a few stretches of the copy, one of each split: they are read from the file, not through a map, and laid
in their places. Where they begin is found by halving, so that rows in the middle of a file of billions are as near as
its first ones. No memory grows with the number of rows, neither for an order nor for pages that were looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, repeat
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.contract.profiles import ModelProfile
from fedlas.data import Dataset, align_inputs, load_dataset, used_inputs
from fedlas.data.alignment import Shape, merged_reading
from fedlas.data.arrays import RowReader, non_finite
from fedlas.data.dataset import Array
from fedlas.data.labels import as_text
from fedlas.data.prepared import ImageColumn
from fedlas.data.roles import ColumnOrder
from fedlas.errors import FedLASError
from fedlas.preprocessing import Preprocessing

#: Larger arrays stay in the file: what is not read (labels, splits, ids) takes no memory.
_MAPPED_FROM = 1 << 20
#: Bytes of a block's rows as the model's inputs and as its answers; the network takes a multiple of it.
_BLOCK_BYTES = 1 << 22
_MAX_ROWS = 1 << 12
#: A whole number is most often a token, of which the first layer makes a vector.
_TOKEN_BYTES = 1 << 12
_BYTES_PER_CLASS = 32
#: So many images tell how large they are.
_SAMPLE = 64
#: Reasons that rows cannot be answered, by their numbers in the owner's file.
Errors: TypeAlias = dict[int, FedLASError]


@dataclass(frozen=True, eq=False)
class Block(Mapping[str, Array]):
    """Neighbouring rows of the owner's file: inputs by name, each read when it is asked for.

    Attributes:
        first_row: the first of them, counted from 0.
    """

    first_row: int
    count: int
    parts: Sequence[_Part]
    columns: Mapping[str, Array]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, name: str) -> Array:
        column = self.columns[name]
        if isinstance(column, ImageColumn):
            rows = np.empty(self.count, np.int64)
            for part in self.parts:
                rows[part.places] = np.arange(part.begin, part.begin + len(part.places))
            return column[rows]
        if len(self.parts) == 1:
            return self.parts[0].read(name)
        values = np.empty((self.count, *column.shape[1:]), column.dtype)
        for part in self.parts:
            values[part.places] = part.read(name)
        return values


def in_file_order(dataset: Dataset, step: int, *, rows: range | None = None) -> Iterator[Block]:
    """Rows in the order of the owner's file, `step` at a time: neighbouring `rows` of it, or all."""
    rows = range(len(dataset)) if rows is None else rows
    stretches = [_Stretch(dataset, *ends, first=rows.start) for ends in pairwise(_bounds(dataset))]
    for first in range(rows.start, rows.stop, step):
        stop = min(first + step, rows.stop)
        parts = [part for stretch in stretches if (part := stretch.take(first, stop))]
        places = np.concatenate([part.places for part in parts]) if parts else np.empty(0, np.int64)
        if not np.array_equal(np.sort(places), np.arange(stop - first)):
            raise ValueError(f"the prepared copy does not hold the rows {first} to {stop - 1} once each")
        yield Block(first, stop - first, parts, dataset.inputs)


def _bounds(dataset: Dataset) -> list[int]:
    """Where the rows of each split begin in the copy, and the end of the last."""
    if dataset.file_rows is None:
        return [0, len(dataset)]
    bounds = [0]
    while bounds[-1] < len(dataset):
        bounds.append(int(np.searchsorted(dataset.splits, dataset.splits[bounds[-1]], side="right")))
    return bounds


class _Stretch:
    """Neighbouring rows of the copy whose order is that of the owner's file, handed out once and in order.

    Args:
        first: the row of the owner's file before which all have been taken.
    """

    def __init__(self, dataset: Dataset, begin: int, end: int, *, first: int) -> None:
        self.begin, self._end = begin, end
        self._columns = dataset.inputs
        numbers = None if dataset.file_rows is None else dataset.file_rows[begin:end]
        self._next = begin + (first if numbers is None else int(np.searchsorted(numbers, first)))
        self._numbers = None if numbers is None else _readable(numbers)
        self._readers: dict[str, RowReader | Array] = {}

    def take(self, first: int, stop: int) -> _Part | None:
        """Take its rows among `first` to `stop` of the owner's file; all before them have been taken."""
        begin, most = self._next, min(stop - first, self._end - self._next)
        if self._numbers is None:
            places = np.arange(most)
        else:
            numbers = self._numbers[begin - self.begin : begin - self.begin + most]
            places = numbers[: np.searchsorted(numbers, stop)] - first
        self._next += len(places)
        return _Part(self, begin, places) if len(places) else None

    def reader(self, name: str) -> RowReader | Array:
        if name not in self._readers:
            self._readers[name] = _readable(self._columns[name][self.begin : self._end])
        return self._readers[name]


class _Part(NamedTuple):
    """Rows of a stretch, from row `begin` of the copy on, and their places in a block."""

    stretch: _Stretch
    begin: int
    places: NDArray[np.int64]

    def read(self, name: str) -> Array:
        first = self.begin - self.stretch.begin
        return self.stretch.reader(name)[first : first + len(self.places)]


def _readable(array: Array) -> RowReader | Array:
    try:
        return RowReader(array)
    except ValueError:
        return array


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
        self._specs = profile.inputs
        self._used = used_inputs(self._dataset.inputs, self._specs)
        told = None if profile.reading is None else profile.reading.model_dump()
        self._reading = merged_reading(self._dataset.reading, told, self._used) or {}
        self._order = ColumnOrder.of_dataset(self._dataset, profile.columns)
        self._fitted({name: self._dataset.inputs[name][:0] for name in self._used}, 0)
        first = self._first_row()
        self._specs = [
            spec.changed(shape=["N", *first[spec.name].shape[1:]]) if spec.name in first else spec
            for spec in self._specs
        ]
        taken = sum(map(_bytes_of_row, first.values())) + sum(map(_bytes_of_files, self._dataset.inputs.values()))
        taken += _BYTES_PER_CLASS * len(profile.class_names)
        self._step = max(1, min(_MAX_ROWS, _BLOCK_BYTES // taken))

    def __len__(self) -> int:
        return len(self._dataset)

    def blocks(self, rows: range) -> Iterator[AlignedRows]:
        """Blocks of these rows of the owner's file, in its order; raises as the class does."""
        for block, ids in zip(in_file_order(self._dataset, self._step, rows=rows), self._ids(rows), strict=True):
            inputs, errors = self._aligned(block)
            yield AlignedRows(block.first_row, block.count, ids, inputs, errors)
            for column in self._dataset.inputs.values():
                if isinstance(column, ImageColumn):
                    column.release()

    def _ids(self, rows: range) -> Iterator[Array | None]:
        if self._dataset.ids is None:
            yield from repeat(None, -(-len(rows) // self._step))
            return
        for block in in_file_order(replace(self._dataset, inputs={"id": self._dataset.ids}), self._step, rows=rows):
            ids = block["id"]
            yield as_text(ids) if ids.dtype.kind == "S" else ids

    def _first_row(self) -> dict[str, Array]:
        """A row of the model's inputs; sizes that it leaves open are those of the first row of the file with any."""
        fixed = {spec.name: _fixed(spec.shape) for spec in self._specs}
        if all(sizes is not None for sizes in fixed.values()):
            return {spec.name: np.empty((1, *(fixed[spec.name] or ())), spec.dtype) for spec in self._specs}
        return next((inputs for inputs, _ in map(self._aligned, in_file_order(self._dataset, 1)) if inputs), {})

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
        for name, array in rows.items():
            if isinstance(array, ImageColumn) or array.dtype.kind != "f":
                continue
            wrong = np.isinf(array) if self._reading.get("missing") == "nan" else ~np.isfinite(array)
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
    """Apply `work` to rows and the number of the first; refused ones are tried by halves, down to single rows.

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
    upper, lower = (
        by_halves(work, {name: array[part] for name, array in rows.items()}, numbers[part], errors)
        for part in (slice(half), slice(half, None))
    )
    if not upper or not lower:
        return upper or lower
    return {name: np.concatenate([upper[name], lower[name]]) for name in upper}


def unlisted(numbers: NDArray[np.int64], errors: Errors) -> NDArray[np.int64]:
    return numbers[~np.isin(numbers, list(errors))] if errors else numbers


def _fixed(shape: Shape) -> tuple[int, ...] | None:
    sizes = tuple(size for size in shape[1:] if isinstance(size, int) and size >= 0)
    return sizes if len(sizes) == len(shape) - 1 else None


def _bytes_of_row(array: Array) -> int:
    return array[:1].size * max(array.itemsize, _TOKEN_BYTES if array.dtype.kind in "iu" and array.itemsize > 2 else 0)


def _bytes_of_files(column: Array) -> int:
    """Bytes that a row takes as it was sent, where that is a file of its own."""
    some = column[:_SAMPLE]
    return some.nbytes // len(some) if isinstance(some, ImageColumn) else 0
