"""The header of an npy file: shape, order and number type of an array, read before its content."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO

import numpy as np

_MAGIC = b"\x93NUMPY"
#: A header may claim any length.
_MAX_BYTES = 1 << 14
_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class NpyHeader:
    """The array that follows.

    Attributes:
        begins: where its content begins.
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    begins: int


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """The header at the beginning of `file`, which stands at the array's content afterwards.

    Raises:
        ValueError: it is no header of npy format 1 or 2.
    """
    magic = file.read(8)
    version = magic[6] if len(magic) == 8 and magic.startswith(_MAGIC) else 0
    length = file.read(2 * version)
    content = file.read(min(_MAX_BYTES, int.from_bytes(length, "little")))
    if version not in _READERS:
        raise ValueError(f"it begins with {magic!r}, not with the magic word of npy format 1 or 2")
    try:
        shape, fortran_order, dtype = _READERS[version](io.BytesIO(length + content))
        sizes = tuple(int(size) for size in shape)
        return NpyHeader(sizes, bool(fortran_order), np.dtype(dtype), len(magic) + len(length) + len(content))
    except Exception as error:  # numpy raises many kinds for a header that is not one
        raise ValueError(str(error)) from error
