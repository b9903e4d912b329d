"""Digests of rows, by which rows with the same inputs are found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import Array, Integers
from fedlas.data.memmap import pieces


def row_digests(arrays: list[Array], rows: Integers | None = None) -> NDArray[np.uint64]:
    """A number for every row (N,), equal where all inputs are, and else by a chance of 2^-64.

    >>> digests = row_digests([np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])])
    >>> (digests[0] == digests).tolist()
    [True, False, True]
    """
    rng = np.random.default_rng(0)
    found: NDArray[np.uint64] = np.zeros(len(arrays[0]) if rows is None else len(rows), np.uint64)
    for array in arrays:
        width = -(-array[:1].nbytes // 8)
        factors = rng.integers(0, 1 << 63, width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        start = 0
        for piece in pieces(array, rows):
            found[start : start + len(piece)] += _mixed(piece, width) @ factors
            start += len(piece)
    return found


def _mixed(piece: Array, width: int) -> NDArray[np.uint64]:
    """The bytes of rows as (N, width) words, each scrambled, so that round numbers differ in their low bits too."""
    content = np.ascontiguousarray(piece).reshape(len(piece), -1).view(np.uint8)
    words = np.zeros((len(piece), 8 * width), np.uint8)
    words[:, : content.shape[1]] = content
    mixed = words.view(np.uint64)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):  # MurmurHash3's finaliser
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(33)
    return mixed
