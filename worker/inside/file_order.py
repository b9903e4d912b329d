"""The order of the owner's file: rows of a prepared copy, block by block, as they stood in the file that was sent.

In a prepared copy the rows are sorted by split, and within a split they stand as in the owner's file. So the next rows
of the file are a few stretches of the copy, one of each split: they are read from the file, not through a map, and laid
in their places. Where they begin is found by halving, so that rows in the middle of a file of billions are as near as
its first ones. No memory grows with the number of rows, neither for an order nor for pages that were looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlas.data import Dataset
from fedlas.data.arrays import RowReader
from fedlas.data.dataset import Array
from fedlas.data.prepared import ImageColumn


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
        found = np.empty((self.count, *column.shape[1:]), column.dtype)
        for part in self.parts:
            found[part.places] = part.read(name)
        return found


def in_file_order(dataset: Dataset, step: int, *, rows: range | None = None) -> Iterator[Block]:
    """Rows in the order of the owner's file, `step` at a time.

    Args:
        rows: neighbouring ones of the owner's file; None takes all.
    """
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
        """Those that are rows `first` to `stop` of the owner's file; all before them have been taken."""
        begin, most = self._next, min(stop - first, self._end - self._next)
        if self._numbers is None:
            places = np.arange(most)
        else:
            numbers = self._numbers[begin - self.begin : begin - self.begin + most]
            places = numbers[: np.searchsorted(numbers, stop)] - first
        self._next += len(places)
        return _Part(self, begin, places) if len(places) else None

    def reader(self, name: str) -> RowReader | Array:
        """All values of the stretch."""
        if name not in self._readers:
            self._readers[name] = _readable(self._columns[name][self.begin : self._end])
        return self._readers[name]


class _Part(NamedTuple):
    """Rows of a stretch, from row `begin` of the copy on, and their places in a block."""

    stretch: _Stretch
    begin: int
    places: NDArray[np.int64]

    def read(self, name: str) -> Array:
        """Their values."""
        first = self.begin - self.stretch.begin
        return self.stretch.reader(name)[first : first + len(self.places)]


def _readable(array: Array) -> RowReader | Array:
    """What gives rows without making pages of a map resident."""
    try:
        return RowReader(array)
    except ValueError:
        return array
