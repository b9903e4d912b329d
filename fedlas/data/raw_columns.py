"""Raw columns: what readers hand on, and the checks that all formats share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset

#: The input that numeric columns form together.
TABLE = "inputs"


@dataclass(frozen=True)
class Columns:
    """What a file holds: the columns that were asked for by name, everything else as inputs, and what to say of it."""

    named: dict[str, Array]
    inputs: dict[str, Array]
    warnings: list[str] = field(default_factory=list)


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


def side_by_side(columns: Sequence[Array]) -> Array:
    """Numeric columns (n,) each as one array (n, columns), of a type that holds all of them."""
    table = np.empty((len(columns[0]), len(columns)), np.result_type(*{column.dtype for column in columns}))
    for i, column in enumerate(columns):
        table[:, i] = column
    return table


def single_name(taken: Iterable[str]) -> str:
    """A name for the input of the numeric columns that no other input has."""
    name, used = TABLE, set(taken)
    while name in used:
        name += "_"
    return name


def check_single(what: str, array: Array) -> None:
    """BadDataset `bad_role` unless there is one value per row."""
    if array.shape[1:]:
        raise BadDataset("bad_role", f"the {what} needs one value per row, got shape {array.shape}")


def not_numeric(what: str, name: str, kind: str, value: object, row: int) -> BadDataset:
    """The error for a column that is neither number nor role, with a cell of it."""
    shown = str(value) if len(str(value)) <= 60 else f"{str(value)[:60]}…"
    return BadDataset(
        "non_numeric_column",
        f"the {what} '{name}' is {kind} ({shown!r} in row {row}, counted from 0) and has no role: "
        f'encode it as numbers, leave it out, or give it a role, for example roles={{"slices": ["{name}"]}}',
    )
