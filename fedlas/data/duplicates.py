"""Rows that occur in more than one split, found by the digest of all their inputs."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import SPLITS, Dataset
from fedlas.data.image_column import ImageColumn
from fedlas.data.memmap import pieces

_DIGEST = 16


def shared_rows(dataset: Dataset, split: str = "test") -> dict[str, int]:
    """How many rows of `split` have exactly the same inputs as some row of each other split (those that have any).

    Images are the same where their files are.

    >>> inputs = {"x": np.array([[1.0], [2.0], [1.0]])}
    >>> data = Dataset(inputs, np.array([0, 1, 0]), ["a", "b"], True, np.array([0, 0, 3], np.int8))
    >>> shared_rows(data)
    {'train': 1}
    """
    mine = _digests(dataset, split)
    found = {name: int(np.isin(mine, _digests(dataset, name)).sum()) for name in SPLITS if name != split}
    return {name: count for name, count in found.items() if count}


def _digests(dataset: Dataset, split: str) -> NDArray[np.bytes_]:
    """A digest of every row of the split (n,), the inputs taken one after another."""
    rows = dataset.rows(split)
    digests = np.zeros((len(rows), _DIGEST), np.uint8)
    for array in dataset.inputs.values():
        start = 0
        for part in [array[rows]] if isinstance(array, ImageColumn) else pieces(array, rows):
            for i, row in enumerate(part, start):
                content = row if isinstance(row, bytes) else np.ascontiguousarray(row).tobytes()
                digest = hashlib.blake2b(digests[i].tobytes() + content, digest_size=_DIGEST)
                digests[i] = np.frombuffer(digest.digest(), np.uint8)
            start += len(part)
    return digests.view(f"V{_DIGEST}").ravel()
