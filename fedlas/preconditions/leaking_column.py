"""A column of a table that is the label in disguise."""

from __future__ import annotations

import numpy as np

from fedlas.data.dataset import Array, Integers
from fedlas.notice import Notice, shortened
from fedlas.preconditions.match import Examined

_MOST_ROWS, _FEWEST_ROWS, _MOST_COLUMNS, _MOST_CELLS = 4_000, 100, 4_096, 2_000_000
#: The share of rows, classes alike, that a leaking column tells, and that no other column may tell.
_LEAKS, _OTHERS = 0.995, 0.97
#: Rows of the rarest class, under which a column may tell it by chance.
_FEWEST_OF_CLASS = 10


def leaking_column(examined: Examined) -> list[Notice]:
    """`leaking_column`, where one column alone tells nearly every label and no other comes near it, or is a copy.

    A task may be as easy as that; but then several columns usually tell it.
    """
    array = examined.inputs[0]
    if len(examined.inputs) != 1 or array.ndim != 2 or not 2 <= array.shape[1] <= _MOST_COLUMNS:
        return []
    most = min(_MOST_ROWS, _MOST_CELLS // array.shape[1])
    rows = np.random.default_rng(0).permutation(len(examined.targets))[:most]
    present, targets = np.unique(examined.targets[rows], return_inverse=True)
    if len(rows) < _FEWEST_ROWS or len(present) < 2 or np.bincount(targets).min() < _FEWEST_OF_CLASS:
        return []
    table = np.asarray(array[rows], np.float64)
    told = np.array([_told(column, targets, len(present)) for column in table.T])
    best = int(told.argmax())
    others = np.delete(told, best)
    copy = _is_copy(table[:, best], targets)
    if told[best] < _LEAKS or (others.max() > _OTHERS and not copy):
        return []
    name = shortened(examined.dataset.columns[best]) if examined.dataset.columns else None
    named = f"Column {best} (counted from 0)" if name is None else f"The column '{name}'"
    right = float((examined.logits.argmax(axis=1) == examined.targets).mean())
    return [
        Notice(
            "leaking_column",
            f"{named} alone tells the label of {100 * told[best]:.1f} % of the rows, the next best column of "
            f"{100 * others.max():.1f} % (classes count alike; the model is right on {100 * right:.1f} %): it is "
            "probably made from the label, and will not be known where the model is used.",
            {
                "column": best if name is None else name,
                "index": best,
                "share_told": round(float(told[best]), 6),
                "next_best_share": round(float(others.max()), 6),
                "rows": len(rows),
            },
        )
    ]


def _is_copy(column: Array, targets: Integers) -> bool:
    """Whether each value stands for one class and each class for one value."""
    values, codes = np.unique(column, return_inverse=True)
    pairs = len(np.unique(codes * (int(targets.max()) + 1) + targets))
    return pairs == len(values) == len(np.unique(targets))


def _told(column: Array, targets: Integers, num_classes: int) -> float:
    """The mean recall, on one half of the rows (N,), of the class of the nearest value in the other half."""
    half = len(column) // 2
    order = np.argsort(column[:half], kind="stable")
    known, values = column[:half][order], column[half:]
    right = np.clip(np.searchsorted(known, values), 1, half - 1)
    nearer = np.where(np.abs(known[right] - values) < np.abs(values - known[right - 1]), right, right - 1)
    hits = targets[order][nearer] == targets[half:]
    counts = np.bincount(targets[half:], minlength=num_classes)
    told = np.bincount(targets[half:], hits, minlength=num_classes)
    return float(np.mean(told[counts > 0] / counts[counts > 0]))
