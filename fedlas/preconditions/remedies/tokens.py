"""Remedies of token ids: numbers shifted, padding on the other side, masks that say the opposite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from fedlas.data.dataset import Array
from fedlas.notice import shortened
from fedlas.preconditions.remedies.remedy import Change, Remedy, Rows

#: Special tokens in front of a vocabulary shift it: by padding alone, or by padding, start and unknown.
_SHIFTS = (1, -1, 2, -2, 3, -3)
#: No tokenizer makes narrower ids: those are pixels of flat images, or masks.
_ID_BYTES = 4


def token_remedies(names: Sequence[str], rows: Rows, vocabularies: Mapping[str, int]) -> Iterator[Remedy]:
    """Other readings of the integer inputs (N, L) of a model, and of masks in any type.

    Args:
        vocabularies: sizes of the tables in which inputs are looked up, by name, as far as they are known.
    """
    shown = [shortened(name) for name in names]
    tokens = [i for i, array in enumerate(rows) if _is_tokens(array)]
    masks = [i for i, array in enumerate(rows) if array.ndim == 2 and "mask" in names[i].lower() and _is_mask(array)]
    ids = [i for i in tokens if i not in masks and not _is_mask(rows[i])]
    for place in masks:
        yield _remedy("invert_mask", f"inverting '{shown[place]}' (1 where a token is)", place, _inverted)
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
        sides: tuple[tuple[bool, str], ...] = ((True, "left"), (False, "right"))
        for left, side in sides:
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


def _is_tokens(array: Array) -> bool:
    wide = array.dtype.kind in "iu" and array.dtype.itemsize >= _ID_BYTES
    return wide and array.ndim == 2 and array.shape[1] > 1


def _inverted(mask: Array) -> Array:
    return np.equal(mask, 0).astype(mask.dtype)


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
        made = (rows[main] != pad).astype(rows[mask].dtype)
        return [*rows[:mask], made, *rows[mask + 1 :]]

    return change


def _exchanged(
    names: Sequence[str], rows: Rows, places: Sequence[int], vocabularies: Mapping[str, int]
) -> Iterator[Remedy]:
    """Two inputs of one shape and type in each other's place."""
    ends = [vocabularies.get(names[i], int(array.max()) + 1 if i in places else 0) for i, array in enumerate(rows)]
    for n, i in enumerate(places):
        for j in places[n + 1 :]:
            if rows[i].shape == rows[j].shape and rows[i].dtype == rows[j].dtype:
                sentence = f"exchanging '{shortened(names[i])}' and '{shortened(names[j])}'"
                yield Remedy("exchange_inputs", "input_tokens", sentence, _swap(i, j, ends))


def _swap(i: int, j: int, ends: Sequence[int]) -> Change:
    """Inputs i and j exchanged.

    Ids that are in no table are no error on a GPU but its end, so they are refused here: what lies outside of the
    vocabulary, or, where that is unknown, above all that the input has shown.
    """

    def change(rows: Rows) -> Rows:
        for place, given in ((i, rows[j]), (j, rows[i])):
            if given.min() < 0 or given.max() >= ends[place]:
                raise IndexError(f"input {place} has no ids from {given.min()} to {given.max()}")
        changed = list(rows)
        changed[i], changed[j] = rows[j], rows[i]
        return changed

    return change
