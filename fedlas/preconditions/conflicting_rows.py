"""Rows with the same inputs and other labels, which no model can all be right on."""

from __future__ import annotations

import numpy as np

from fedlas.data import Dataset
from fedlas.data.dataset import Integers
from fedlas.data.duplicates import row_digests
from fedlas.notice import Notice
from fedlas.preconditions.match import Examined

#: Tables of codes and whole numbers have conflicts by nature: one row of nine of the US census's incomes. From this
#: share on, of rows that few others equal, they are a mistake; of images from the other.
_LEAST_SHARE, _LEAST_OF_IMAGES, _FEW_EQUAL, _MOSTLY_FEW = 0.2, 0.05, 4, 0.5
#: Of more rows or bytes only the calibration rows are read.
_MOST_ROWS, _MOST_BYTES = 1_000_000, 1 << 29


def conflicting_rows(examined: Examined) -> list[Notice]:
    """`conflicting_duplicates`, where many rows have the inputs of rows with another label."""
    dataset = examined.dataset
    rows = _rows(dataset)
    targets = dataset.targets if rows is None else dataset.targets[rows]
    digests = row_digests(list(dataset.inputs.values()), rows)
    _, inputs = np.unique(digests, return_inverse=True)
    pairs, counts = np.unique(inputs * examined.num_classes + targets, return_counts=True)
    owner = pairs // examined.num_classes
    kinds, equal = np.bincount(owner), np.bincount(inputs)
    conflicting = int(equal[kinds > 1].sum())
    share = conflicting / len(targets)
    images = any(array.ndim > 2 for array in dataset.inputs.values())
    among_few = int(equal[(kinds > 1) & (equal <= _FEW_EQUAL)].sum()) / len(targets)
    if among_few < max(_LEAST_OF_IMAGES if images else _LEAST_SHARE, _MOSTLY_FEW * share):
        return []
    most = np.zeros(len(kinds), np.int64)
    np.maximum.at(most, owner, counts)
    reachable = float(most.sum()) / len(targets)
    where = "rows" if rows is None else "calibration rows"
    return [
        Notice(
            "conflicting_duplicates",
            f"{conflicting:,} of {len(targets):,} {where} ({100 * share:.1f} %) have exactly the inputs of rows with "
            f"another label, so no model can be right on more than {100 * reachable:.1f} % of them: look for rows that "
            "were sent twice, and for labels that stand beside the wrong rows.",
            {
                "rows": conflicting,
                "of": len(targets),
                "share": round(share, 6),
                "reachable_accuracy": round(reachable, 6),
                "examples": _examples(dataset, rows, inputs, kinds),
            },
        )
    ]


def _rows(dataset: Dataset) -> Integers | None:
    """The rows that are read; None is all of them."""
    size = sum(array.nbytes for array in dataset.inputs.values())
    return None if len(dataset) <= _MOST_ROWS and size <= _MOST_BYTES else dataset.rows("calibration")


def _examples(dataset: Dataset, rows: Integers | None, inputs: Integers, kinds: Integers) -> list[list[int]]:
    """Up to five pairs of rows of the owner's file that are equal but for their labels."""
    found = []
    first = np.unique(inputs[kinds[inputs] > 1], return_index=True)
    for one in first[0][np.argsort(first[1])][:5]:
        places = np.flatnonzero(inputs == one)
        places = places if rows is None else rows[places]
        other = places[np.argmax(dataset.targets[places] != dataset.targets[places[0]])]
        found.append(dataset.in_file(np.array([places[0], other])).tolist())
    return found
