"""The arrays that are no roles become model inputs, each checked and with the broken cell named."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset

_CHUNK_VALUES = 1 << 22


def check_lengths(arrays: Mapping[str, Array], label: str) -> None:
    """BadDataset `length_mismatch` or `empty` unless every array has as many rows as the label."""
    if arrays[label].ndim == 0:
        raise BadDataset("bad_labels", f"'{label}' is a single value; one label per row is needed")
    wanted = len(arrays[label])
    if wanted == 0:
        raise BadDataset("empty", f"'{label}' has no rows")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != wanted:
            rows = "a single value" if array.ndim == 0 else f"{len(array)} rows"
            raise BadDataset("length_mismatch", f"'{name}' has {rows}, but '{label}' has {wanted}")


def npz_inputs(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Every array is one input under its own name; BadDataset `no_inputs`, `non_numeric_column`."""
    if not arrays:
        raise BadDataset("no_inputs", "there is no array beside the roles; add one per model input")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise BadDataset("non_numeric_column", _advice("array", name, array.dtype.name, array.flat[0], 0))
    return dict(arrays)


def csv_inputs(columns: Mapping[str, Array]) -> dict[str, Array]:
    """All columns side by side as the single input `inputs` (N, columns), integers where all are."""
    if not columns:
        raise BadDataset("no_inputs", "there is no column beside the roles; add at least one numeric column")
    for name, column in columns.items():
        if column.dtype.kind not in "biuf":
            row = _first_text(column)
            raise BadDataset("non_numeric_column", _advice("column", name, "text", column[row], row))
    whole = all(column.dtype.kind in "biu" for column in columns.values())
    table = np.empty((len(next(iter(columns.values()))), len(columns)), np.int64 if whole else np.float64)
    for i, column in enumerate(columns.values()):
        table[:, i] = column
    return {"inputs": table}


def check_finite(arrays: Mapping[str, Array], *, allow_nan: bool) -> None:
    """BadDataset `non_finite` that names array, row and value; `allow_nan` lets NaN pass, never infinity."""
    for name, array in arrays.items():
        if array.dtype.kind != "f" or array.size == 0:
            continue
        step = max(1, _CHUNK_VALUES // max(1, array[0].size))
        for start in range(0, len(array), step):
            part = array[start : start + step]
            broken = np.isinf(part) if allow_nan else ~np.isfinite(part)
            if broken.any():
                place = tuple(int(i) for i in np.argwhere(broken)[0])
                raise BadDataset("non_finite", _not_finite(name, part[place], (start + place[0], *place[1:])))


def _not_finite(name: str, value: float, place: tuple[int, ...]) -> str:
    where = f"row {place[0]}" + (f", position {list(place[1:])}" if len(place) > 1 else "")
    word = "empty or NaN" if np.isnan(value) else str(value)
    return f"'{name}' is {word} in {where} (counted from 0); numbers must be finite"


def _first_text(column: Array) -> int:
    """The first cell that is no number, which made the whole column text."""
    for row, text in enumerate(column):
        try:
            float(text)
        except (TypeError, ValueError):
            return row
    return 0


def _advice(what: str, name: str, kind: str, value: object, row: int) -> str:
    return (
        f"the {what} '{name}' is {kind} ({str(value)!r} in row {row}, counted from 0) and has no role: "
        f'encode it as numbers, leave it out, or give it a role, for example roles={{"slices": ["{name}"]}}'
    )
