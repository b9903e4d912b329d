"""The npz reader: arrays of an npz archive, headers before data and never a pickle."""

from __future__ import annotations

import math
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fedlas.data.arrays import MAX_BYTES, MEMORY_BYTES, NO_ROOM, PIECE_BYTES, ArrayFactory, NpyHeader, read_npy_header
from fedlas.data.columns import Columns, not_numeric
from fedlas.data.dataset import Array
from fedlas.data.file_format import check_members, open_archive
from fedlas.errors import BadDataset

#: More arrays than any model has inputs and any dataset roles.
MAX_ARRAYS = 10_000
#: Roles stand in memory.
MAX_NAMED_BYTES = 1 << 30
#: Arrays are larger than pictures, and those that are mostly zero shrink further.
_LIMITS = {"max_member_bytes": MAX_BYTES, "max_ratio": 200, "free_bytes": 1 << 28}


class NpzReader:
    """An npz file whose directory has been checked.

    Raises:
        BadDataset: as `open_archive` and `check_members` do, and `archive_too_large` for too many arrays.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        with open_archive(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise BadDataset("archive_too_large", f"the npz archive holds {len(members):,} arrays")
            check_members(members, archive_bytes=Path(path).stat().st_size, **_LIMITS)
            self._members = {member.filename.removesuffix(".npy"): member for member in members}
            if len(self._members) < len(members):
                raise BadDataset("corrupt", "two members of the npz archive have the same array name")
        self.names = list(self._members)

    def read(self, named: Collection[str], arrays: ArrayFactory) -> Columns:
        """All arrays in native byte order: `named` ones in memory, the others as inputs, of which each is numeric.

        Raises:
            BadDataset: `object_array`, `unsupported_dtype`, `non_numeric_column`, `non_finite`, `too_large`, or
                `corrupt` (damaged, truncated, or a header that does not fit the data that follows it).
        """
        columns = Columns({}, {})
        with _unpacking(), zipfile.ZipFile(self._path) as archive:
            for name, member in self._members.items():
                with archive.open(member) as file:
                    content = _NpyMember(name, file, _checked_header(name, file, member.file_size))
                    if name in named:
                        columns.named[name] = content.whole()
                    else:
                        columns.inputs[name] = content.built(arrays)
        return columns


@dataclass(frozen=True)
class _NpyMember:
    """An array whose header has been read and whose content has not."""

    name: str
    file: IO[bytes]
    header: NpyHeader

    def whole(self) -> Array:
        if self.header.nbytes > MAX_NAMED_BYTES:
            raise BadDataset("too_large", f"'{self.name}' has {self.header.nbytes >> 20} MiB: too much for a role")
        array = np.concatenate([np.empty(0, self.header.dtype), *self._pieces()]).reshape(
            self.header.shape, order="F" if self.header.fortran_order else "C"
        )
        _check_text(self.name, array)
        return array.astype(self.header.dtype.newbyteorder("="), copy=False)

    def built(self, arrays: ArrayFactory) -> Array:
        if self.header.dtype.kind not in "biuf":
            small = self.header.dtype.itemsize * math.prod(self.header.shape[1:]) <= PIECE_BYTES
            first = next(self._pieces(), np.empty(0, self.header.dtype)) if small else np.empty(0, self.header.dtype)
            _check_text(self.name, first[:1])
            raise not_numeric("array", self.name, self.header.dtype.name, first[0] if len(first) else "nothing", 0)
        with arrays.builder(self.name) as builder:
            if not self.header.shape:  # left for the check of lengths
                return self.whole()
            builder.append(np.empty((0, *self.header.shape[1:]), self.header.dtype))
            turned = self.header.fortran_order and len(self.header.shape) > 1 and self.header.nbytes > 0
            for rows in self._columns_first(arrays) if turned else self._rows():
                builder.append(rows)
            return builder.finish()

    def _rows(self) -> Iterator[Array]:
        if self.header.nbytes == 0:
            yield np.empty(self.header.shape, self.header.dtype)
        for piece in self._pieces():
            yield piece.reshape(-1, *self.header.shape[1:])

    def _columns_first(self, arrays: ArrayFactory) -> Iterator[Array]:
        """Whole rows of an array that is stored the other way round, which takes a copy of it."""
        if arrays.scratch is None or self.header.nbytes <= MEMORY_BYTES:
            yield np.concatenate(list(self._pieces())).reshape(self.header.shape, order="F")
            return
        with tempfile.TemporaryFile(dir=arrays.scratch) as copy:
            for piece in self._pieces():
                copy.write(piece.view(np.uint8).data)
            copy.flush()
            step = max(1, 4 * PIECE_BYTES * self.header.shape[0] // self.header.nbytes)
            for start in range(0, self.header.shape[0], step):
                yield self._turned_rows(copy, start, min(step, self.header.shape[0] - start))

    def _turned_rows(self, copy: IO[bytes], start: int, count: int) -> Array:
        """Some rows, put together from a stretch of every column; read, since mapped pages would all count as ours."""
        columns = np.empty((math.prod(self.header.shape[1:]), count), self.header.dtype)
        for i, column in enumerate(columns):
            copy.seek((i * self.header.shape[0] + start) * self.header.dtype.itemsize)
            column.view(np.uint8)[:] = np.frombuffer(copy.read(column.nbytes), np.uint8)
        return columns.reshape(*reversed(self.header.shape[1:]), count).T

    def _pieces(self) -> Iterator[Array]:
        """The values in the order of the file, some rows at a time; the archive's checksum is compared at the end."""
        left = self.header.nbytes
        row = math.prod(self.header.shape[1:]) * self.header.dtype.itemsize
        while left:
            wanted = min(left, max(1, PIECE_BYTES // row) * row)
            content = self.file.read(wanted)
            if len(content) < wanted:
                num_bytes = self.header.nbytes - left + len(content)
                raise BadDataset(
                    "corrupt", f"the array '{self.name}' ends after {num_bytes} of {self.header.nbytes} bytes"
                )
            left -= wanted
            yield np.frombuffer(content, self.header.dtype)
        self.file.read(1)


def _checked_header(name: str, file: IO[bytes], size: int) -> NpyHeader:
    try:
        header = read_npy_header(file)
    except ValueError as error:
        raise BadDataset("corrupt", f"the header of the array '{name}' cannot be read: {str(error)[:300]}") from error
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject:
        raise BadDataset(
            "object_array",
            f"the array '{name}' holds Python objects (a pickle), which are never opened; give it a number "
            "or text type, for example numpy.asarray(values, dtype='float32')",
        )
    if dtype.kind not in "biufUSM" or dtype.itemsize == 0:
        raise BadDataset("unsupported_dtype", f"the array '{name}' has type {dtype}; numbers or text are needed")
    claimed, held = header.nbytes, size - header.begins
    if min(shape, default=0) < 0 or claimed != held:
        raise BadDataset(
            "corrupt", f"the array '{name}' claims shape {shape} of {dtype} ({claimed} bytes), but {held} bytes follow"
        )
    return header


def _check_text(name: str, array: Array) -> None:
    """BadDataset `corrupt` where an array of text holds numbers that are no characters."""
    if array.dtype.kind != "U" or array.size == 0:
        return
    points = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
        raise BadDataset("corrupt", f"the text in the array '{name}' has characters that do not exist")


@contextmanager
def _unpacking() -> Iterator[None]:
    """Damage in our words; a disk that is full is none."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise BadDataset("corrupt", f"the npz archive is damaged: {error}") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise BadDataset("corrupt", f"the npz archive is damaged: {error.strerror or error}") from error
