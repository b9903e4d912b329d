"""Rows that occur in more than one split, found by the digest of all their inputs; it changes no split."""

from __future__ import annotations

import hashlib

import numpy as np

from fedlas.data.dataset import SPLITS, Dataset


def shared_rows(dataset: Dataset, split: str = "test") -> dict[str, int]:
    """How many rows of `split` have exactly the same inputs as some row of each other split (those that have any).

    >>> inputs = {"x": np.array([[1.0], [2.0], [1.0]])}
    >>> data = Dataset(inputs, np.array([0, 1, 0]), ["a", "b"], True, np.array([0, 0, 3], np.int8))
    >>> shared_rows(data)
    {'train': 1}
    """
    digests = {name: _digests(dataset, name) for name in SPLITS}
    mine = digests.pop(split)
    found = {
        name: sum(digest in others for digest in mine) for name, theirs in digests.items() if (others := set(theirs))
    }
    return {name: count for name, count in found.items() if count}


def _digests(dataset: Dataset, split: str) -> list[bytes]:
    rows = dataset.rows(split)
    hashes = [hashlib.blake2b(digest_size=16) for _ in rows]
    for array in dataset.inputs.values():
        for hash_, row in zip(hashes, np.ascontiguousarray(array[rows]), strict=True):
            hash_.update(row.tobytes())
    return [hash_.digest() for hash_ in hashes]
