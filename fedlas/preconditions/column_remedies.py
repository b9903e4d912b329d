"""Remedies of columns and tokens: another order, unit or numbering, also as constants of the graph suggest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fedlas.data.dataset import Array
from fedlas.documents import shortened
from fedlas.preconditions.graph_statistics import Expected, far_columns
from fedlas.preconditions.remedy import Change, Remedy, Rows, column_name, image_remedies, on_input, scale_remedies

_UNITS = (1000.0, 0.001, 100.0, 0.01, 10.0, 0.1, 60.0, 1 / 60)
#: Up to so many columns every pair is exchanged, every column is moved to every place.
_MAX_EXCHANGED = 40
_MAX_MOVED = 12
#: Special tokens in front of a vocabulary shift it: by padding alone, or by padding, start and unknown.
_SHIFTS = (1, -1, 2, -2, 3, -3)
#: No tokenizer makes narrower ids: those are pixels of flat images, or masks.
_ID_BYTES = 4
_FACTORS = np.array([10.0**power for power in (-6, -3, -2, -1, 1, 2, 3, 6)] + [60, 3600, 1 / 60, 1 / 3600, 24, 1 / 24])
_UNKNOWN = 0.3
#: Columns that come so much nearer, in spreads, were in another order; less may be a shift of the data.
_CLEARLY_NEARER = 1.0
#: The best of all orders takes the cube of their number.
_MAX_ORDERED = 512


def order_remedies(place: int, name: str, rows: Array, columns: Sequence[str] | None) -> Iterator[Remedy]:
    if (width := rows.shape[1]) < 2:
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
    for i, j in combinations(range(width), 2) if width <= _MAX_EXCHANGED else near:
        order = np.arange(width)
        order[[i, j]] = j, i
        yield order
    for i, j in permutations(range(width), 2) if width <= _MAX_MOVED else ():
        if abs(i - j) > 1:
            yield np.insert(np.delete(np.arange(width), i), j, i)


def number_of_moves(width: int) -> int:
    pairs = width * (width - 1) // 2 if width <= _MAX_EXCHANGED else width - 1
    return pairs + ((width - 1) * (width - 2) if width <= _MAX_MOVED else 0)


def described_order(order: NDArray[np.int64], columns: Sequence[str] | None, name: str) -> str:
    changed = np.flatnonzero(order != np.arange(len(order)))
    if len(changed) == 2:
        first, second = (column_name(columns, int(i)) for i in changed)
        return f"exchanging the columns {first} and {second} of {name}"
    return f"another order of {len(changed)} columns of {name}"


def unit_remedies(place: int, name: str, rows: Array, columns: Sequence[str] | None) -> Iterator[Remedy]:
    """One column in another unit, by the factors between usual units."""
    for column in range(rows.shape[1]) if 1 < rows.shape[1] <= _MAX_EXCHANGED else ():
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

    def column_as(value: Callable[[Array], Array]) -> Change:
        def change(x: Array) -> Array:
            made = x.copy()
            made[:, column] = value(made[:, column])
            return made

        return on_input(place, change)

    return Remedy(
        "column_unit",
        "input_columns",
        said,
        column_as(lambda x: x * factor),
        least_gain=0.15,
        searched=True,
        control=column_as(lambda x: np.full_like(x, mean * factor)),
    )


def token_remedies(names: Sequence[str], rows: Rows, vocabularies: Mapping[str, int]) -> Iterator[Remedy]:
    """Other readings of integer inputs (N, L) and of masks; `vocabularies` are sizes of the tables looked up."""
    shown = [shortened(name) for name in names]
    wide = [array.dtype.kind in "iu" and array.dtype.itemsize >= _ID_BYTES for array in rows]
    tokens = [i for i, array in enumerate(rows) if wide[i] and array.ndim == 2 and array.shape[1] > 1]
    masks = [i for i, array in enumerate(rows) if array.ndim == 2 and "mask" in names[i].lower() and _is_mask(array)]
    ids = [i for i in tokens if i not in masks and not _is_mask(rows[i])]
    for place in masks:
        sentence = f"inverting '{shown[place]}' (1 where a token is)"
        yield _remedy("invert_mask", sentence, place, lambda mask: np.equal(mask, 0).astype(mask.dtype))
        yield _remedy("full_mask", f"a '{shown[place]}' of ones", place, np.ones_like)
    if not ids:
        return
    main = max(ids, key=lambda place: float(rows[place].max()))
    pad = _padding(rows[main])
    for shift in _SHIFTS if rows[main].min() >= 0 else ():
        yield _shifted(shown[main], main, shift, pad, int(rows[main].max()))
    yield _remedy("reverse_tokens", f"the tokens of '{shown[main]}' in reverse", main, lambda x: x[:, ::-1])
    if pad is not None:
        alike = [i for i in tokens if rows[i].shape == rows[main].shape] + [i for i in masks if i not in tokens]
        for left, side in ((True, "left"), (False, "right")):
            yield Remedy(f"pad_{side}", "input_tokens", f"padding on the {side}", _padded(main, alike, pad, left))
    for place in masks:
        if rows[place].shape == rows[main].shape and pad is not None:
            yield Remedy(
                "mask_from_tokens",
                "input_tokens",
                f"a '{shown[place]}' that is 0 where '{shown[main]}' is padding ({pad})",
                _masked(main, place, pad),
            )
    yield from _exchanged(names, rows, [*tokens, *(i for i in masks if i not in tokens)], vocabularies)


def _is_mask(array: Array) -> bool:
    return bool(np.isin(np.unique(array[:200]), (0, 1)).all())


def _remedy(machine: str, sentence: str, place: int, change: Callable[[Array], Array]) -> Remedy:
    def changed(rows: Rows) -> Rows:
        return [*rows[:place], np.ascontiguousarray(change(rows[place])), *rows[place + 1 :]]

    return Remedy(machine, "input_tokens", sentence, changed)


def _padding(ids: Array) -> int | None:
    """The id that ends or begins most rows, None where rows are not padded."""
    for column in (-1, 0):
        values, counts = np.unique(ids[:, column], return_counts=True)
        often = int(values[counts.argmax()])
        inner = ids[:, -2] if column == -1 else ids[:, 1]
        if counts.max() > 0.3 * len(ids) and (inner == often).mean() > 0.2:
            return often
    return None


def _shifted(name: str, place: int, shift: int, pad: int | None, most: int) -> Remedy:
    def change(ids: Array) -> Array:
        # Unsigned ids have no room for a shift below zero; behind the bounds all fit into their type again.
        moved = np.clip(ids.astype(np.int64) + shift, 0, most).astype(ids.dtype)
        return moved if pad is None else np.where(ids == pad, ids, moved)

    return _remedy(f"shift_ids_{shift:+d}", f"adding {shift} to the ids of '{name}'", place, change)


def _padded(main: int, alike: Sequence[int], pad: int, left: bool) -> Change:
    def change(rows: Rows) -> Rows:
        length = rows[main].shape[1]
        is_token = rows[main] != pad
        first, last = is_token.argmax(axis=1), length - 1 - is_token[:, ::-1].argmax(axis=1)
        # Padding on the left ends at the last column, padding on the right begins after the last token.
        shift = np.where(is_token.any(axis=1), last - (length - 1) if left else first, 0)
        places = (np.arange(length)[None] + shift[:, None]) % length
        return [np.take_along_axis(a, places, 1) if i in alike else a for i, a in enumerate(rows)]

    return change


def _masked(main: int, mask: int, pad: int) -> Change:
    def change(rows: Rows) -> Rows:
        return [*rows[:mask], (rows[main] != pad).astype(rows[mask].dtype), *rows[mask + 1 :]]

    return change


def _exchanged(
    names: Sequence[str], rows: Rows, places: Sequence[int], vocabularies: Mapping[str, int]
) -> Iterator[Remedy]:
    ends = [vocabularies.get(names[i], int(array.max()) + 1 if i in places else 0) for i, array in enumerate(rows)]
    for n, i in enumerate(places):
        for j in places[n + 1 :]:
            if rows[i].shape == rows[j].shape and rows[i].dtype == rows[j].dtype:
                sentence = f"exchanging '{shortened(names[i])}' and '{shortened(names[j])}'"
                yield Remedy("exchange_inputs", "input_tokens", sentence, _swap(i, j, ends))


def _swap(i: int, j: int, ends: Sequence[int]) -> Change:
    """Inputs i and j exchanged; ids in no table end a GPU's context, so those beyond `ends` raise IndexError."""

    def change(rows: Rows) -> Rows:
        for place, given in ((i, rows[j]), (j, rows[i])):
            if given.min() < 0 or given.max() >= ends[place]:
                raise IndexError(f"input {place} has no ids from {given.min()} to {given.max()}")
        changed = list(rows)
        changed[i], changed[j] = rows[j], rows[i]
        return changed

    return change


def usual_remedies(
    names: Sequence[str], rows: Rows, columns: Sequence[str] | None, vocabularies: Mapping[str, int]
) -> Iterator[Remedy]:
    """The remedies of what is usually done wrong to such inputs, the likeliest first."""
    for place, array in enumerate(rows):
        name = f"'{shortened(names[place])}'"
        if array.dtype.kind == "f" or (array.ndim == 4 and array.dtype.kind in "ui"):
            yield from scale_remedies(place, name, array)
            yield from image_remedies(place, name, array)
            if array.ndim == 2:
                yield from order_remedies(place, name, array, columns)
    yield from token_remedies(names, rows, vocabularies)


def expected_remedies(
    place: int, name: str, rows: Array, expected: Expected, columns: Sequence[str] | None
) -> Iterator[Remedy]:
    """Remedies that bring the columns of a table to where the graph expects them."""
    wide = _without_gaps(rows)
    mean, deviation = np.nanmean(wide, axis=0), np.nanstd(wide, axis=0)
    far = [column for column, _ in far_columns(expected, wide)]
    cost = distances(expected, rows) if expected.size <= _MAX_ORDERED else np.zeros((0, 0))
    order = np.asarray(linear_sum_assignment(cost)[1])
    moved = order != np.arange(len(order))
    if moved.any():
        nearer = float((np.diag(cost) - cost[np.arange(len(order)), order])[moved].mean())
        sentence = described_order(order, columns, name)
        yield permuted(place, order, "order_columns", sentence, searched=nearer < _CLEARLY_NEARER)
    for column in far[:5]:
        # The constants tell the unit: that the column is better left out would be no objection.
        yield replace(
            in_unit(place, column, _factor(expected, column, mean, deviation), name, columns),
            control=None,
            searched=False,
        )
    if len(far) > 1:
        factors = np.ones(len(mean))
        factors[far] = [_factor(expected, column, mean, deviation) for column in far]
        which = ", ".join(column_name(columns, column) for column in far[:10])
        yield Remedy(
            "column_units",
            "input_columns",
            f"other units for the columns {which} of {name}",
            on_input(place, lambda x: x * factors),
        )
    if expected.known.all() and (np.abs(mean) < 1).mean() > 0.8 and ((deviation > 0.3) & (deviation < 3)).mean() > 0.7:
        yield Remedy(
            "undo_standardisation",
            "input_scale",
            f"undoing the standardisation of {name}, which the model does itself",
            on_input(place, lambda x: x * expected.spread + expected.centre),
        )


def _without_gaps(rows: Array) -> Array:
    wide = rows.astype(np.float64)
    wide[:, ~np.isfinite(wide).any(axis=0)] = 0
    return wide


def distances(expected: Expected, rows: Array) -> Array:
    """How far each column of the data lies from where each column of the model was: (model's, data's), in spreads."""
    wide = _without_gaps(rows)
    mean, deviation = np.nanmean(wide, axis=0), np.nanstd(wide, axis=0)
    known, varied = expected.known, deviation > 0
    spread, wide = np.where(known, expected.spread, 1.0)[:, None], np.where(varied, deviation, 1.0)[None]
    centre = np.where(known, expected.centre, 0.0)[:, None]
    cost = np.abs(centre - mean[None]) / (spread + wide) + np.abs(np.log(wide / spread))
    cost[~known] = _UNKNOWN
    cost[:, ~varied] = _UNKNOWN
    # The given order is taken among those that fit alike.
    cost[np.diag_indices_from(cost)] -= 0.05
    return np.asarray(cost)


def _factor(expected: Expected, column: int, mean: Array, deviation: Array) -> float:
    """The usual factor between units that is nearest to what the graph's constants ask for."""
    if abs(expected.centre[column]) > expected.spread[column] and mean[column]:
        wanted = abs(expected.centre[column] / mean[column])
    else:
        wanted = expected.spread[column] / max(float(deviation[column]), 1e-12)
    return float(_FACTORS[np.abs(np.log(_FACTORS / max(wanted, 1e-12))).argmin()])
