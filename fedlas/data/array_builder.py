"""The array builder: an array that grows row by row while a file is read, in memory first, then in a file.

Files are written one piece after another and mapped only when they are whole, so that reading ten gigabytes needs
memory for a piece.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset

#: Arrays beyond this size stand in files where there is a folder for them.
MEMORY_BYTES = 1 << 26
#: No array of a dataset may be larger, however small the file is that claims to hold it.
MAX_BYTES = 1 << 36

#: Rows are handed on in pieces of about this size.
PIECE_BYTES = 1 << 24
#: What the system says when a file may not grow, which is no fault of the file that is read.
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
        """What was read so far, in a wider type."""
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
    return BadDataset("non_finite", f"'{name}' is {word} in {where} (counted from 0); numbers must be finite")
