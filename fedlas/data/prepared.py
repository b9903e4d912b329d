"""The prepared copy of a dataset, which jobs read where it lies: rows sorted by split, large arrays mapped.

Sorted, the rows of a split lie side by side: training reads one stretch of the file and nothing is copied.
Encoded image files look like an array of shape (N,).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fedlas.contract.profiles import Notice
from fedlas.data.arrays import MAPPED_FROM, read_arrays, release, write_arrays
from fedlas.data.dataset import Array, Dataset, Integers
from fedlas.documents import as_json


@dataclass(frozen=True)
class ImageDtype:
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
        self, data: NDArray[np.uint8], offsets: Integers, *, rows: Integers | None = None, warnings: Sequence[str] = ()
    ) -> None:
        """Image i is `data[offsets[i] : offsets[i + 1]]`; `rows` selects and orders; `warnings` are for the owner."""
        self._data, self._offsets, self._rows = data, offsets, rows
        self.warnings = list(warnings)

    @classmethod
    def of(cls, images: Sequence[bytes]) -> ImageColumn:
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
        return (len(self),)

    @property
    def size(self) -> int:
        return len(self)

    @property
    def lengths(self) -> Integers:
        lengths: Integers = np.diff(self._offsets)
        return lengths if self._rows is None else lengths[self._rows]

    @property
    def nbytes(self) -> int:
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


_META = (
    "class_names",
    "class_names_given",
    "seen_by_model",
    "warnings",
    "roles",
    "format",
    "drawn",
    "labelled",
    "columns",
    "reading",
    "matched_by",
    "label_names",
)
_OPTIONAL = ("groups", "weights", "ids")
_NONE = np.empty(0, np.int64)


def save_dataset(dataset: Dataset, path: str | Path) -> None:
    """Write the prepared copy: an uncompressed npz file without pickles, rows sorted by split, else in file order."""
    meta = {
        **{name: getattr(dataset, name) for name in _META},
        "inputs": list(dataset.inputs),
        "slices": list(dataset.slices),
        "adjustments": as_json(dataset.adjustments),
    }
    arrays: dict[str, Array] = {"meta": np.array(json.dumps(meta))}
    for i, array in enumerate(dataset.inputs.values()):
        if isinstance(array, ImageColumn):
            # Files as they are; one dimension more than rows, so that sorting the rows leaves bytes and places alone.
            arrays |= {f"input_{i}_data": array.data[None], f"input_{i}_offsets": array.offsets[None]}
            array = np.arange(len(array))
        arrays[f"input_{i}"] = array
    arrays |= {f"slice_{i}": array for i, array in enumerate(dataset.slices.values())}
    if dataset.labelled:
        arrays |= {"targets": dataset.targets, "splits": dataset.splits}
        arrays |= {"file_rows": dataset.in_file(np.arange(len(dataset)))}
    arrays |= {name: array for name in _OPTIONAL if (array := getattr(dataset, name)) is not None}
    write_arrays(path, arrays, order=np.argsort(dataset.splits, kind="stable") if dataset.labelled else None)


def load_dataset(path: str | Path, *, mapped_from: int = MAPPED_FROM) -> Dataset:
    """Read what `save_dataset` wrote; arrays of `mapped_from` bytes or more stay on disk until they are read."""
    arrays = read_arrays(path, mapped_from=mapped_from)
    meta: dict[str, Any] = json.loads(str(arrays["meta"]))
    names, slices = meta.pop("inputs"), meta.pop("slices")
    meta["adjustments"] = [Notice(**notice) for notice in meta["adjustments"]]
    meta |= {name: arrays.get(name) for name in (*_OPTIONAL, "file_rows")}
    return Dataset(
        inputs={name: _input(arrays, f"input_{i}") for i, name in enumerate(names)},
        targets=arrays.get("targets", _NONE),
        splits=arrays.get("splits", _NONE).astype(np.int8, copy=False),
        slices={name: arrays[f"slice_{i}"] for i, name in enumerate(slices)},
        **meta,
    )


def _input(arrays: dict[str, Array], name: str) -> Array:
    if f"{name}_data" not in arrays:
        return arrays[name]
    return ImageColumn(arrays[f"{name}_data"][0], arrays[f"{name}_offsets"][0], rows=arrays[name])  # type: ignore[return-value]
