"""Reads the arrays of an npz archive, headers before data and never a pickle; it knows no roles."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset

_CHUNK = 1 << 22


def read_npz(path: str | Path) -> dict[str, Array]:
    """All arrays by name, in native byte order.

    Raises:
        BadDataset: `object_array`, `unsupported_dtype`, or `corrupt` (damaged, truncated, or a header that
            does not fit the data that follows it).
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise BadDataset("corrupt", f"the array '{name}' appears twice")
                with archive.open(member) as file:
                    arrays[name] = _read_array(name, file, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise BadDataset("corrupt", f"the npz archive is damaged: {error}") from error
    return arrays


def _read_array(name: str, file: IO[bytes], size: int) -> Array:
    shape, fortran_order, dtype = _read_header(name, file)
    if dtype.hasobject:
        raise BadDataset(
            "object_array",
            f"the array '{name}' holds Python objects (a pickle), which are never opened; give it a number "
            "or text type, for example numpy.asarray(values, dtype='float32')",
        )
    if dtype.kind not in "biufUSM" or dtype.itemsize == 0:
        raise BadDataset("unsupported_dtype", f"the array '{name}' has type {dtype}; numbers or text are needed")
    claimed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or claimed != held:
        raise BadDataset(
            "corrupt",
            f"the array '{name}' claims shape {shape} of {dtype} ({claimed} bytes), but {held} bytes follow",
        )
    flat = np.empty(math.prod(shape), dtype=dtype)
    _fill(name, flat, file)
    array = flat.reshape(shape, order="F" if fortran_order else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _read_header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"npy format version {version}")
        shape, fortran_order, dtype = readers[version](file)
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # numpy raises many kinds for a header that is not one
        raise BadDataset("corrupt", f"the header of the array '{name}' cannot be read: {error}") from error
    return tuple(int(size) for size in shape), bool(fortran_order), np.dtype(dtype)


def _fill(name: str, flat: Array, file: IO[bytes]) -> None:
    """Read into memory that is already there; the archive's checksum is compared at the end."""
    if flat.size == 0:
        return
    target = flat.view(np.uint8).data.cast("B")
    position = 0
    while position < len(target):
        chunk = file.read(min(_CHUNK, len(target) - position))
        if not chunk:
            raise BadDataset("corrupt", f"the array '{name}' ends after {position} of {len(target)} bytes")
        target[position : position + len(chunk)] = chunk
        position += len(chunk)
    file.read(1)
