"""Remedies of columns: another order, or one column in another unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import Array
from fedlas.preconditions.remedies.remedy import Remedy, column_name, on_input

_UNITS = (1000.0, 0.001, 100.0, 0.01, 10.0, 0.1, 60.0, 1 / 60)
#: Up to so many columns every pair is exchanged, every column is moved to every place.
_MOST_EXCHANGED, _MOST_MOVED = 40, 12


def order_remedies(place: int, name: str, rows: Array, columns: Sequence[str] | None) -> Iterator[Remedy]:
    """The orders that tables get by mistake."""
    width = rows.shape[1]
    if width < 2:
        return
    yield permuted(place, np.arange(width)[::-1], "reverse_columns", f"the columns of {name} in reversed order")
    if columns is not None and len(columns) == width:
        order = np.argsort(np.array(columns), kind="stable")
        yield permuted(place, order, "sort_columns", f"the columns of {name} in alphabetical order")
        yield permuted(
            place, np.argsort(order), "unsort_columns", f"the columns of {name} in the order that sorting undid"
        )
    if width > 2:
        yield permuted(
            place, np.roll(np.arange(width), -1), "first_column_last", f"the first column of {name} as its last"
        )
        yield permuted(
            place, np.roll(np.arange(width), 1), "last_column_first", f"the last column of {name} as its first"
        )


def permuted(
    place: int,
    order: NDArray[np.int64],
    machine: str,
    sentence: str,
    *,
    least_gain: float = 0.1,
    searched: bool = False,
) -> Remedy:
    """Column i of the model is column `order[i]` of the data."""
    return Remedy(
        machine, "input_columns", sentence, on_input(place, lambda x: x[:, order]), least_gain, searched=searched
    )


def moves(width: int) -> Iterator[NDArray[np.int64]]:
    """Orders that differ from the given one by one exchange or one moved column."""
    near = ((i, i + 1) for i in range(width - 1))
    pairs = combinations(range(width), 2) if width <= _MOST_EXCHANGED else near
    for i, j in pairs:
        order = np.arange(width)
        order[[i, j]] = j, i
        yield order
    for i, j in permutations(range(width), 2) if width <= _MOST_MOVED else ():
        if abs(i - j) > 1:
            yield np.insert(np.delete(np.arange(width), i), j, i)


def number_of_moves(width: int) -> int:
    """How many orders `moves` gives."""
    pairs = width * (width - 1) // 2 if width <= _MOST_EXCHANGED else width - 1
    return pairs + ((width - 1) * (width - 2) if width <= _MOST_MOVED else 0)


def described_order(order: NDArray[np.int64], columns: Sequence[str] | None, name: str) -> str:
    """The order as the subject of a sentence."""
    changed = np.flatnonzero(order != np.arange(len(order)))
    if len(changed) == 2:
        first, second = (column_name(columns, int(i)) for i in changed)
        return f"exchanging the columns {first} and {second} of {name}"
    return f"another order of {len(changed)} columns of {name}"


def unit_remedies(place: int, name: str, rows: Array, columns: Sequence[str] | None) -> Iterator[Remedy]:
    """One column in another unit, by the factors between usual units."""
    for column in range(rows.shape[1]) if 1 < rows.shape[1] <= _MOST_EXCHANGED else ():
        mean = float(np.nanmean(rows[:, column])) if not np.isnan(rows[:, column]).all() else 0.0
        for factor in _UNITS:
            yield in_unit(place, column, factor, name, columns, mean)


def in_unit(
    place: int, column: int, factor: float, name: str, columns: Sequence[str] | None, mean: float = 0.0
) -> Remedy:
    """A column times a factor; a constant in its place must explain less."""
    which = column_name(columns, column)
    said = (
        f"multiplying column {which} of {name} by {factor:g}"
        if factor >= 1
        else (f"dividing column {which} of {name} by {1 / factor:g}")
    )

    def scaled(x: Array) -> Array:
        made = x.copy()
        made[:, column] *= factor
        return made

    def constant(x: Array) -> Array:
        made = x.copy()
        made[:, column] = mean * factor
        return made

    return Remedy(
        "column_unit",
        "input_columns",
        said,
        on_input(place, scaled),
        least_gain=0.15,
        searched=True,
        control=on_input(place, constant),
    )
