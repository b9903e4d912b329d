"""Arrays in memory and in files: one that grows while a file is read, and an npz file that is mapped where it lies.

A builder's files are written one piece after another and mapped only when they are whole, so that reading ten gigabytes
needs memory for a piece.

Any tool that reads npz reads the uncompressed files of `write_arrays`. Beyond that every array begins at a multiple of
64 bytes, so that it can be mapped as it stands, and rows can be written in another order than they have, in pieces,
whatever their size.
"""

from __future__ import annotations

import errno
import io
import math
import mmap
import os
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset

#: Arrays beyond this size stand in files where there is a folder for them.
MEMORY_BYTES = 1 << 26
#: No array of a dataset may be larger, however small the file is that claims to hold it.
MAX_BYTES = 1 << 36
#: Rows are handed on in pieces of about this size.
PIECE_BYTES = 1 << 24
#: Errors of the system when a file may not grow, which is no fault of the file that is read.
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@dataclass(frozen=True)
class ArrayFactory:
    """Makes the builders of the arrays of one dataset.

    Attributes:
        scratch: folder for the files of large arrays; None keeps everything in memory.
        allow_nan: lets NaN through, never infinity.
        broken: where it is a list, rows that hold other numbers are kept, and a sentence on them is added to it.
    """

    scratch: Path | None = None
    allow_nan: bool = False
    broken: list[str] | None = None

    def builder(self, name: str, *, columns: Sequence[str] | None = None) -> ArrayBuilder:
        """An array to append to; its file is removed where the block fails. `columns` name the cells of a row."""
        return ArrayBuilder(name, self, columns)


class ArrayBuilder:
    """Rows appended in pieces, each checked: numbers must be finite.

    The type is wide enough for all pieces: integers followed by floats become floats, those before included.
    """

    def __init__(self, name: str, factory: ArrayFactory, columns: Sequence[str] | None = None) -> None:
        self._name, self._factory, self._columns = name, factory, columns
        self._rows = 0
        self._row_shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] | None = None
        self._memory = np.empty(0, np.uint8)
        self._file: IO[bytes] | None = None
        self._broken, self._first_broken = 0, ""

    def __enter__(self) -> ArrayBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            if kind is not None:
                os.unlink(self._file.name)

    def __len__(self) -> int:
        return self._rows

    @property
    def _row_bytes(self) -> int:
        assert self._dtype is not None
        return int(np.prod(self._row_shape, dtype=np.int64)) * self._dtype.itemsize

    def append(self, part: Array) -> None:
        """Add rows (n, ...) of the same trailing shape.

        Raises:
            BadDataset: `non_finite` with the row, `ragged` where the shape differs, `too_large`.
        """
        part = part.astype(part.dtype.newbyteorder("="), copy=False)
        if self._dtype is None:
            self._row_shape, self._dtype = part.shape[1:], part.dtype
        elif part.shape[1:] != self._row_shape:
            raise BadDataset(
                "ragged",
                f"'{self._name}' has rows of shape {part.shape[1:]} from row {self._rows} on (counted from 0), "
                f"and of shape {self._row_shape} before",
            )
        self._check_finite(part)
        wider = np.result_type(self._dtype, part.dtype)
        if wider != self._dtype:
            self._widen(wider)
        self._write(np.ascontiguousarray(part, dtype=self._dtype))
        self._rows += len(part)

    def finish(self) -> Array:
        """The whole array; one in a file is mapped, and never written again."""
        assert self._dtype is not None
        if self._broken and self._factory.broken is not None:
            self._factory.broken.append(f"rows with numbers that are not finite: {self._broken}; {self._first_broken}")
        shape = (self._rows, *self._row_shape)
        if self._file is None:
            self._memory.resize(self._rows * self._row_bytes, refcheck=False)
            return self._memory.view(self._dtype).reshape(shape) if self._memory.size else np.empty(shape, self._dtype)
        self._file.close()
        return np.memmap(self._file.name, self._dtype, "r", shape=shape)

    def _check_finite(self, part: Array) -> None:
        if part.dtype.kind != "f" or part.size == 0:
            return
        broken = np.isinf(part) if self._factory.allow_nan else ~np.isfinite(part)
        if broken.any():
            place = tuple(int(i) for i in np.unravel_index(int(np.argmax(broken)), broken.shape))
            error = non_finite(self._name, part[place], (self._rows + place[0], *place[1:]), columns=self._columns)
            if self._factory.broken is None:
                raise error
            self._first_broken = self._first_broken or error.message
            self._broken += int(broken.reshape(len(part), -1).any(axis=1).sum())

    def _write(self, part: Array) -> None:
        content = part.reshape(-1).view(np.uint8) if part.size else np.empty(0, np.uint8)
        used = self._rows * self._row_bytes
        if used + content.size > MAX_BYTES:
            raise BadDataset("too_large", f"'{self._name}' has more than {MAX_BYTES >> 30} GiB")
        if self._file is None and self._factory.scratch is not None and used + content.size > MEMORY_BYTES:
            self._file = self._opened()
            self._file.write(self._memory[:used].data)
            self._memory = np.empty(0, np.uint8)
        if self._file is not None:
            self._file.write(content.data)
            return
        if used + content.size > self._memory.size:
            self._memory.resize(max(used + content.size, used + used // 4), refcheck=False)
        self._memory[used : used + content.size] = content

    def _opened(self) -> IO[bytes]:
        return tempfile.NamedTemporaryFile(suffix=".array", dir=self._factory.scratch, delete=False)

    def _widen(self, dtype: np.dtype[Any]) -> None:
        """Convert what was read so far to a wider type."""
        narrow, used, written = self._dtype, self._rows * self._row_bytes, self._file
        assert narrow is not None
        self._dtype = dtype
        if written is None:
            wide = self._memory[:used].view(narrow).astype(dtype)
            self._memory = wide.view(np.uint8).copy()  # only an array that owns its memory can grow
            return
        written.seek(0)
        self._file = self._opened()
        while content := written.read(PIECE_BYTES // narrow.itemsize * narrow.itemsize):
            self._file.write(np.frombuffer(content, narrow).astype(dtype).data)
        written.close()
        os.unlink(written.name)


def non_finite(name: str, value: float, place: tuple[int, ...], *, columns: Sequence[str] | None = None) -> BadDataset:
    """The error for a number that is none, with its place; `columns` name the cells of a row."""
    if columns is not None:
        name, place = columns[place[1]], place[:1]
    where = f"row {place[0]}" + (f", position {list(place[1:])}" if len(place) > 1 else "")
    word = "empty or NaN" if np.isnan(value) else str(value)
    remedy = (
        ': fill it, leave such rows out, or, if the model takes missing numbers, say missing="nan" '
        "(fedlas calibrate model.onnx YOUR_FILE --dataset-option missing=nan)"
    )
    return BadDataset(
        "non_finite",
        f"'{name}' is {word} in {where} (counted from 0); numbers must be finite{remedy if np.isnan(value) else ''}",
    )


MAPPED_FROM = 1 << 28
_ALIGNED = 64
_PIECE = 1 << 26
#: Private extra field of a zip member that holds nothing but padding (as zipalign's).
_PADDING_ID = b"\x35\xd9"
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20
_EXTRA_HEADER = 4

_MAGIC = b"\x93NUMPY"
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
        begins = len(magic) + len(length) + len(content)
        return NpyHeader(tuple(int(size) for size in shape), bool(fortran_order), np.dtype(dtype), begins)
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
        numbers = range(*rows.indices(self._shape[0])) if isinstance(rows, slice) else rows.tolist()
        gathered = np.empty((len(numbers), *self._shape[1:]), self._dtype)
        if gathered.nbytes == 0:
            return gathered
        target = gathered.reshape(-1).view(np.uint8).data
        if isinstance(rows, slice):
            self._fill(target, numbers[0])
            return gathered
        for i, row in enumerate(numbers):
            self._fill(target[i * self._row_bytes : (i + 1) * self._row_bytes], row)
        return gathered

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
