"""The image column: encoded image files of a dataset, which look like an array of shape (N,)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import Integers
from fedlas.data.memmap import release


@dataclass(frozen=True)
class ImageDtype:
    """The `dtype` of an image column."""

    name: str = "image"
    kind: str = "V"
    itemsize: int = 0


class ImageColumn:
    """A column of N image files as they were sent, one after another in a flat array of bytes (perhaps memory-mapped).

    It looks like an array of shape (N,) as far as datasets need: `len`, `shape`, `dtype`, and selection of rows, which
    copies nothing.

    >>> column = ImageColumn.of([b"one", b"two", b"three"])
    >>> column[1:][1], column[[2, 0]].lengths.tolist()
    (b'three', [5, 3])
    """

    dtype = ImageDtype()
    ndim = 1

    def __init__(
        self,
        data: NDArray[np.uint8],
        offsets: Integers,
        *,
        rows: Integers | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """Image i is `data[offsets[i] : offsets[i + 1]]`; `rows` selects and orders; `warnings` are for the owner."""
        self._data, self._offsets, self._rows = data, offsets, rows
        self.warnings = list(warnings)

    @classmethod
    def of(cls, images: Sequence[bytes]) -> ImageColumn:
        """The column of these files."""
        offsets = np.cumsum([0, *(len(image) for image in images)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(images), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1 if self._rows is None else len(self._rows)

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, rows: int) -> bytes: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | Integers) -> ImageColumn: ...
    def __getitem__(self, rows: int | slice | Sequence[int] | Integers) -> bytes | ImageColumn:
        if isinstance(rows, int):
            start = self.place(rows)
            return self._data[self._offsets[start] : self._offsets[start + 1]].tobytes()
        if self._rows is not None:
            chosen = self._rows[rows]
        elif isinstance(rows, slice):
            chosen = np.arange(*rows.indices(len(self)))
        else:
            chosen = np.arange(len(self))[np.asarray(rows)]
        return ImageColumn(self._data, self._offsets, rows=chosen, warnings=self.warnings)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,)."""
        return (len(self),)

    @property
    def size(self) -> int:
        """N."""
        return len(self)

    @property
    def lengths(self) -> Integers:
        """Bytes of each file (N,)."""
        lengths: Integers = np.diff(self._offsets)
        return lengths if self._rows is None else lengths[self._rows]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return int(self.lengths.sum())

    @property
    def offsets(self) -> Integers:
        """Where each file starts in `data`, and the end of the last (N + 1,)."""
        return self._offsets if self._rows is None else np.cumsum([0, *self.lengths], dtype=np.int64)

    @property
    def data(self) -> NDArray[np.uint8]:
        """All files, one after another; a copy where rows were selected."""
        if self._rows is None:
            return self._data
        offsets, packed = self.offsets, np.empty(self.nbytes, np.uint8)
        for i in range(len(self)):
            packed[offsets[i] : offsets[i + 1]] = np.frombuffer(self[i], np.uint8)
        return packed

    def release(self) -> None:
        """Give the pages of the files back to the system; see `memmap.release`."""
        release(self._data)

    def place(self, i: int, /) -> int:
        """The number of a file before rows were selected: its row in what the owner sent."""
        return i if self._rows is None else int(self._rows[i])
