"""Mistakes in the columns of a table; labels are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.data.common import Array
from benchmarks.mistakes.answers import accuracy
from benchmarks.mistakes.bases import Base, retrained
from benchmarks.mistakes.kinds import Kinds
from benchmarks.mistakes.pair import Pair

TABLES = Kinds()
_SCALE, _COLUMNS = ("input_scale",), ("input_columns",)
_TRIED = 15


def _raw(base: Base) -> Array:
    x = base.pair.inputs["x"]
    return x * base.std + base.mean if base.wants == "standardised" else x


def _made(base: Base, raw: Array, columns: tuple[str, ...] | None = None) -> Pair:
    """The pair with other raw columns, standardised by the constants of the right ones where that is wanted."""
    x = (raw - base.mean) / base.std if base.wants == "standardised" else raw
    return replace(base.pair, inputs={"x": x.astype(np.float32)}, columns=columns or base.pair.columns)


def _is_table(base: Base) -> bool:
    return base.wants in ("raw", "standardised")


def _numbers(base: Base) -> bool:
    return _is_table(base) and not base.categories


def _worst(base: Base, change: Callable[[int], Pair]) -> Pair:
    """Of the columns to which it could be done, that which harms the answers most: others would not be missed."""
    width = base.pair.inputs["x"].shape[1]
    tried = np.random.default_rng(0).permutation(width)[:_TRIED]
    return min((change(int(column)) for column in tried), key=accuracy)


def _ordered(base: Base, order: Array) -> Pair:
    names = tuple(base.pair.columns[i] for i in order) if base.pair.columns else None
    # A scaler outside the graph was fitted to these columns where they stand, so each keeps its own constants.
    return replace(base.pair, inputs={"x": base.pair.inputs["x"][:, order]}, columns=names)


@TABLES.kind("no scaler", *_SCALE, "input_columns", remedy=r"standardi|scale")
def _no_scaler(base: Base) -> Pair | None:
    return replace(base.pair, inputs={"x": _raw(base).astype(np.float32)}) if base.wants == "standardised" else None


@TABLES.kind("scaled twice", *_SCALE, "input_columns", remedy=r"standardi|scale|twice")
def _scaled_twice(base: Base) -> Pair | None:
    if not _numbers(base):
        return None
    x = (base.pair.inputs["x"] - base.mean) / base.std
    return replace(base.pair, inputs={"x": x.astype(np.float32)})


@TABLES.kind("one column times 100", *_SCALE, *_COLUMNS, remedy=r"column")
def _other_unit(base: Base) -> Pair | None:
    def changed(column: int) -> Pair:
        raw = _raw(base).copy()
        raw[:, column] *= 100
        return _made(base, raw)

    return _worst(base, changed) if _numbers(base) else None


@TABLES.kind("one column in Fahrenheit", *_SCALE, *_COLUMNS, remedy=r"column")
def _fahrenheit(base: Base) -> Pair | None:
    def changed(column: int) -> Pair:
        raw = _raw(base).copy()
        raw[:, column] = 1.8 * raw[:, column] + 32
        return _made(base, raw)

    return _worst(base, changed) if _numbers(base) else None


@TABLES.kind("columns reversed", *_COLUMNS, remedy=r"order|permut|revers|column")
def _reversed(base: Base) -> Pair | None:
    return _ordered(base, np.arange(base.pair.inputs["x"].shape[1])[::-1]) if _is_table(base) else None


@TABLES.kind("columns in alphabetical order", *_COLUMNS, remedy=r"order|permut|alphabet|column")
def _alphabetical(base: Base) -> Pair | None:
    return _ordered(base, np.argsort(base.pair.columns or ())) if _is_table(base) else None


@TABLES.kind("two columns exchanged", *_COLUMNS, remedy=r"order|permut|exchang|swap|column")
def _exchanged(base: Base) -> Pair | None:
    if not _is_table(base):
        return None
    rng, width = np.random.default_rng(1), base.pair.inputs["x"].shape[1]

    def changed(_: int) -> Pair:
        order = np.arange(width)
        one, other = rng.choice(width, 2, replace=False)
        order[[one, other]] = other, one
        return _ordered(base, order)

    return _worst(base, changed)


@TABLES.kind("an index column in place of the last", *_COLUMNS, *_SCALE, remedy=r"column|index")
def _index(base: Base) -> Pair | None:
    if not _is_table(base):
        return None
    x = base.pair.inputs["x"]
    moved = np.column_stack([np.arange(len(x)), x[:, :-1]]).astype(np.float32)
    return replace(base.pair, inputs={"x": moved}, columns=("row", *(base.pair.columns or ())[:-1]))


@TABLES.kind("pandas index in a csv", *_COLUMNS, "inputs_mismatch", remedy=r"Unnamed", told=r"pandas index")
def _unnamed(base: Base) -> Pair | None:
    return replace(base.pair, frame_index="Unnamed: 0") if _is_table(base) else None


@TABLES.kind(
    "pandas index in a Parquet file", *_COLUMNS, "inputs_mismatch", remedy=r"__index", told=r"__index_level_0__"
)
def _index_level(base: Base) -> Pair | None:
    return replace(base.pair, frame_index="__index_level_0__") if _is_table(base) else None


@TABLES.kind("a column filled with zeros", *_COLUMNS, *_SCALE, remedy=r"column")
def _zeros(base: Base) -> Pair | None:
    def changed(column: int) -> Pair:
        raw = _raw(base).copy()
        raw[:, column] = 0
        return _made(base, raw)

    return _worst(base, changed) if _is_table(base) else None


@TABLES.kind("categories coded otherwise", *_COLUMNS, *_SCALE, remedy=r"categor|code|column")
def _coded(base: Base) -> Pair | None:
    if not base.categories:
        return None
    x = base.pair.inputs["x"].copy()
    for column in base.categories:  # in the order in which they occur, in place of that of their names
        found, first = np.unique(x[:, column], return_index=True)
        places = np.argsort(np.argsort(first))
        x[:, column] = places[np.searchsorted(found, x[:, column])]
    return replace(base.pair, inputs={"x": x})


@TABLES.kind("a column that is the label", "leaking_column", remedy=r"column|label")
def _leak(base: Base) -> Pair | None:
    """A model that was trained with it; it is right on every row, and will not be where the label is not known."""
    if not _is_table(base):
        return None
    x = np.column_stack([base.pair.inputs["x"], base.pair.targets]).astype(np.float32)
    columns = (*(base.pair.columns or ()), "outcome")
    return retrained(base, replace(base.pair, inputs={"x": x}, columns=columns), "leak")
