"""The order of columns: a dataset's columns are matched with a model's by name, or an error names what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedlas.data.dataset import Dataset, Integers
from fedlas.errors import Mismatch
from fedlas.notice import Notice, adjustment, first_names

_SHOWN = 50


@dataclass(frozen=True)
class ColumnOrder:
    """Where a model's columns stand among a dataset's.

    Attributes:
        names: of the model's columns, by the model or else by the dataset; None where neither names them.
        places: of the model's columns among the dataset's; None where they stand as the model takes them.
        adjustments: what is done to them.
        described: a clause with the names for errors; empty where there are none.
    """

    names: list[str] | None = None
    places: Integers | None = None
    adjustments: list[Notice] = field(default_factory=list)
    described: str = ""

    @classmethod
    def of_dataset(cls, dataset: Dataset, wanted: Sequence[str] | None) -> ColumnOrder:
        """The order of a dataset's columns; errors also tell of an index that is none of them; raises as `of`."""
        index = "".join(f"; {told.message}" for told in dataset.adjustments if told.code == "index_dropped")
        try:
            order = cls.of(dataset.columns, wanted)
        except Mismatch as error:
            raise Mismatch(error.code, error.message + index) from error
        return replace(order, described=order.described + index)

    @classmethod
    def of(cls, found: Sequence[str] | None, wanted: Sequence[str] | None) -> ColumnOrder:
        """The order of a dataset's columns `found` in which they are a model's columns `wanted`.

        Raises:
            Mismatch: `columns_mismatch` where the dataset lacks a column.
        """
        if found is None or wanted is None or list(found) == list(wanted):
            owner, names = ("dataset", found) if wanted is None else ("model", wanted)
            return cls() if names is None else cls(list(names), described=f"; the {owner}'s columns are {some(names)}")
        place, known = {name: i for i, name in enumerate(found)}, frozenset(wanted)
        more = [name for name in found if name not in known]
        if missing := [name for name in wanted if name not in place]:
            raise _mismatch(found, wanted, missing, more)
        places = np.array([place[name] for name in wanted], np.int64)
        adjustments = [_dropped(more)] if more else []
        if (np.diff(places) < 0).any():
            adjustments.append(_reordered(found, wanted))
        return cls(list(wanted), places, adjustments)


def some(names: Sequence[str]) -> str:
    """The first names of many, in quotes."""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _mismatch(found: Sequence[str], wanted: Sequence[str], missing: Sequence[str], more: Sequence[str]) -> Mismatch:
    surplus = f", and has {some(more)}, which the model does not know" if more else ""
    return Mismatch(
        "columns_mismatch",
        f"the dataset lacks {some(missing)}{surplus}; the model's {len(wanted)} columns are {some(wanted)}; "
        f"the dataset's {len(found)} are {some(found)}",
    )


def _dropped(names: Sequence[str]) -> Notice:
    return adjustment(
        "columns_dropped", f"the model has no column {some(names)}: not used as an input", columns=first_names(names)
    )


def _reordered(found: Sequence[str], wanted: Sequence[str]) -> Notice:
    message = f"the columns were put into the model's order: {some(wanted)}; in the dataset they are {some(found)}"
    return adjustment("columns_reordered", message, dataset=first_names(found), model=first_names(wanted))
