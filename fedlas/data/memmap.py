"""Arrays on disk that are read where they lie: an uncompressed npz file, mapped into memory.

Any tool that reads npz reads these files. Beyond that every array begins at a multiple of 64 bytes, so that it can be
mapped as it stands, and rows can be written in another order than they have, in pieces, whatever their size.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import Array

#: Arrays from this size on are mapped instead of read.
MAPPED_FROM = 1 << 28
_ALIGNED = 64
_PIECE = 1 << 26
#: Private extra field of a zip member that holds nothing but padding (as zipalign's).
_PADDING_ID = b"\x35\xd9"
_LOCAL_HEADER, _ZIP64_EXTRA, _EXTRA_HEADER = 30, 20, 4

_MAGIC = b"\x93NUMPY"
#: A header may claim any length.
_MAX_HEADER_BYTES = 1 << 14
_HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


def write_arrays(path: str | Path, arrays: Mapping[str, Array], *, order: NDArray[np.int64] | None = None) -> None:
    """Write arrays as an uncompressed npz file.

    Args:
        order: the row of the arrays that becomes each row of the file; None keeps them. Arrays of another length than
            `order` are written as they are.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            rows = order if order is not None and array.ndim and len(array) == len(order) else None
            _write_member(archive, f"{name}.npy", array, rows)


def _write_member(archive: zipfile.ZipFile, name: str, array: Array, rows: NDArray[np.int64] | None) -> None:
    member = zipfile.ZipInfo(name)
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(name.encode()) + _ZIP64_EXTRA + _EXTRA_HEADER
    padding = -start % _ALIGNED
    member.extra = _PADDING_ID + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces(array, rows):
            file.write(np.ascontiguousarray(piece).data.cast("B") if piece.size else b"")


def pieces(array: Array, rows: NDArray[np.int64] | None = None) -> Iterator[Array]:
    """The rows of an array (or those of `rows`, in their order) in pieces of some 64 MiB; pages are given back."""
    if array.ndim == 0:
        yield array
        return
    number = len(array) if rows is None else len(rows)
    step = max(1, _PIECE // max(1, array[:1].nbytes))
    for start in range(0, number, step):
        piece = slice(start, start + step)
        yield array[piece] if rows is None else array[rows[piece]]
        release(array)


@dataclass(frozen=True)
class NpyHeader:
    """Shape, order and number type of an array, and where in its file the content begins."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    begins: int

    @property
    def nbytes(self) -> int:
        """Of the content."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """The header at the beginning of `file`, which stands at the array's content afterwards.

    Raises:
        ValueError: it is no header of npy format 1 or 2.
    """
    magic = file.read(8)
    version = magic[6] if len(magic) == 8 and magic.startswith(_MAGIC) else 0
    length = file.read(2 * version)
    content = file.read(min(_MAX_HEADER_BYTES, int.from_bytes(length, "little")))
    if version not in _HEADERS:
        raise ValueError(f"it begins with {magic!r}, not with the magic word of npy format 1 or 2")
    try:
        shape, fortran_order, dtype = _HEADERS[version](io.BytesIO(length + content))
        sizes = tuple(int(size) for size in shape)
        return NpyHeader(sizes, bool(fortran_order), np.dtype(dtype), len(magic) + len(length) + len(content))
    except Exception as error:  # numpy raises many kinds for a header that is not one
        raise ValueError(str(error)) from error


def read_arrays(path: str | Path, *, mapped_from: int = MAPPED_FROM) -> dict[str, Array]:
    """All arrays by name: small ones in memory, large ones mapped (copy-on-write, so the file never changes).

    Raises:
        ValueError: the file is no npz file without pickles.
    """
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                header = read_npy_header(file)
                name = member.filename.removesuffix(".npy")
                if header.fortran_order or member.compress_type or member.file_size - header.begins < mapped_from:
                    file.seek(0)
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                    continue
            begins = _data_offset(path, member) + header.begins
            arrays[name] = np.memmap(path, dtype=header.dtype, mode="c", offset=begins, shape=header.shape)
    return arrays


def _data_offset(path: str | Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: its local header may be longer than the one in the directory."""
    with Path(path).open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return member.header_offset + _LOCAL_HEADER + name + extra


class RowReader:
    """Rows of a mapped array, read from its file instead of through the map.

    A page fault maps its neighbours too, on new kernels megabytes of them: gathering random rows of 12 kB made a 4 GB
    file resident as a whole. What is read into an array of its own takes that array's memory and no more.

    Raises:
        ValueError: the array is not mapped, or its rows do not lie one after another.
    """

    def __init__(self, array: Array) -> None:
        root: Any = array
        while isinstance(root, np.ndarray) and not isinstance(root.base, mmap.mmap):
            root = root.base
        if not isinstance(root, np.memmap) or root.filename is None or not array.flags.c_contiguous:
            raise ValueError("array must be mapped from a file, with its rows one after another")
        self._row_bytes = array[:1].nbytes
        self._start = root.offset + array.ctypes.data - root.ctypes.data
        self._shape, self._dtype = array.shape, array.dtype
        self._file = os.open(root.filename, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Array:
        """The rows as an array of their own."""
        side_by_side = isinstance(rows, slice)
        numbers = range(*rows.indices(self._shape[0])) if isinstance(rows, slice) else rows.tolist()
        found = np.empty((len(numbers), *self._shape[1:]), self._dtype)
        if found.nbytes == 0:
            return found
        target = found.reshape(-1).view(np.uint8).data
        if side_by_side:
            self._fill(target, numbers[0])
            return found
        for i, row in enumerate(numbers):
            self._fill(target[i * self._row_bytes : (i + 1) * self._row_bytes], row)
        return found

    def _fill(self, target: memoryview, row: int) -> None:
        place = self._start + row * self._row_bytes
        while len(target):
            count = os.preadv(self._file, [target], place)
            if count == 0:
                raise EOFError("the file is shorter than the array that was mapped from it")
            target, place = target[count:], place + count


def release(array: Array) -> None:
    """Give the pages of a mapped array back to the system; they are read again when they are needed.

    Pages that were read count as this process's memory until another process needs it, which looks like (and, under a
    limit, is) a dataset that is held in memory. Does nothing for other arrays.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
