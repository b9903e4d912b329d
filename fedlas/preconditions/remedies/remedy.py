"""The remedy: a change of the inputs that would undo one mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedlas.data.dataset import Array
from fedlas.notice import shortened

Rows = list[Array]
Change = Callable[[Rows], Rows]


@dataclass(frozen=True)
class Remedy:
    """What is done to the rows of all inputs.

    Attributes:
        name: for machines, `divide_by_255`.
        code: of the notice that names it.
        sentence: what it does, as a subject: "dividing 'x' by 255".
        least_gain: the share of the loss that it must take away to explain anything.
        near_chance: it fits itself to the rows, so that it may also mend a mere shift of the data: it explains only
            answers that tell next to nothing of the labels.
        control: a change that the same rows would gain by if the remedy only hid what harms; it must explain less.
        searched: it is the best of many that were tried, so that it may only undo a shift of the data.
        scales: it multiplies the inputs, so that it may mend confidence alone, and all answers are as right as before.
    """

    name: str
    code: str
    sentence: str
    change: Change
    least_gain: float = 0.07
    near_chance: bool = False
    control: Change | None = None
    scales: bool = False
    searched: bool = False


def on_input(place: int, change: Callable[[Array], Array]) -> Change:
    """The change of one input, in its type."""

    def changed(rows: Rows) -> Rows:
        made = change(rows[place])
        if rows[place].dtype.kind in "ui" and made.dtype.kind == "f":
            made = np.rint(made)
        return [*rows[:place], made.astype(rows[place].dtype), *rows[place + 1 :]]

    return changed


def column_name(columns: Sequence[str] | None, place: int) -> str:
    """How a sentence calls a column."""
    return (
        f"'{shortened(columns[place])}'"
        if columns is not None and place < len(columns)
        else f"{place} (counted from 0)"
    )
