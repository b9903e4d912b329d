"""Columns: what readers hand on, the checks that all formats share, and the columns of roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedlas.data.dataset import Array, Integers
from fedlas.data.labels import as_text, codes
from fedlas.errors import BadDataset
from fedlas.notice import Notice

#: ISO 8601 without and with a zone; the second becomes UTC.
_TIMES = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
#: The input that numeric columns form together.
TABLE = "inputs"


@dataclass(frozen=True)
class Columns:
    """The columns of a file: those asked for by name, everything else as inputs, and warnings.

    Attributes:
        table: the names of the numeric columns that form one input together, in order; None without such an input.
    """

    named: dict[str, Array]
    inputs: dict[str, Array]
    warnings: list[str] = field(default_factory=list)
    table: list[str] | None = None
    adjustments: list[Notice] = field(default_factory=list)


def check_names(names: Sequence[str]) -> None:
    """BadDataset `duplicate_column` where two columns have one name."""
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise BadDataset("duplicate_column", f"these columns appear more than once: {', '.join(twice[:20])}")


def check_lengths(arrays: Mapping[str, Array], first: str) -> None:
    """BadDataset `length_mismatch` or `empty` unless every array has as many rows as that called `first`."""
    wanted = len(arrays[first]) if arrays[first].ndim else None
    if wanted == 0:
        raise BadDataset("empty", f"'{first}' has no rows")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != wanted:
            rows = "a single value" if array.ndim == 0 else f"{len(array)} rows"
            raise BadDataset("length_mismatch", f"'{name}' has {rows}, but '{first}' has {wanted or 'one'}")


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
        f'if it holds the labels, say roles={{"label": "{name}"}} (on the command line --role label={name}); else '
        f'encode it as numbers, leave it out, or give it another role, such as roles={{"slices": ["{name}"]}}',
    )


def read_groups(name: str, array: Array) -> Integers:
    """Numbers (N,), equal where the groups are; BadDataset `bad_groups` where a row has none."""
    check_single("group", array)
    _check_present(array, "bad_groups", f"the group '{name}'")
    return codes(array)


def read_slice(name: str, array: Array) -> Array:
    """Numbers as they are, everything else as text."""
    check_single(f"slice {name!r}", array)
    return array if array.dtype.kind in "iufb" else as_text(array)


def read_weights(name: str, array: Array) -> NDArray[np.float64]:
    """Sampling weights (N,), at least 0 and not all 0; BadDataset `bad_weights` with the row otherwise."""
    check_single("weight", array)
    if array.dtype.kind not in "biuf":
        raise BadDataset(
            "bad_weights",
            f"the weights '{name}' are {array.dtype.name}, not numbers: {str(as_text(array[:1])[0])[:60]!r}",
        )
    weights = array.astype(np.float64)
    row = _first(~(np.isfinite(weights) & (weights >= 0)))
    if row is not None:
        raise BadDataset(
            "bad_weights",
            f"the weight '{name}' is {weights[row]} in row {row} (counted from 0); weights are finite and at least 0",
        )
    if not weights.any():
        raise BadDataset("bad_weights", f"all weights in '{name}' are 0")
    return weights


def read_ids(name: str, array: Array) -> tuple[Array, list[str]]:
    """The names of the rows (N,), numbers, text or bytes of text, and a sentence where two rows share one."""
    check_single("id", array)
    rows = codes(array)
    ids = array if array.dtype.kind in "iufbS" else as_text(array)
    twice = np.flatnonzero(np.bincount(rows) > 1)
    if not len(twice):
        return ids, []
    first, second = np.flatnonzero(rows == twice[0])[:2]
    (shown,) = as_text(ids[[first]])
    return ids, [
        f"{len(twice)} values of the id '{name}' stand in more than one row, for example {str(shown)[:60]} "
        f"in rows {first} and {second} (counted from 0)"
    ]


def read_time(name: str, array: Array) -> Array:
    """Times (N,) as numbers or datetime64, from numbers, ISO 8601 text or timestamps.

    Raises:
        BadDataset: `bad_time` with the row that is empty or cannot be read.
    """
    check_single("time", array)
    if array.dtype.kind in "SU":
        array = _parsed(name, as_text(array))
    _check_present(array, "bad_time", f"the time '{name}'")
    return array


def _parsed(name: str, texts: Array) -> Array:
    column = pa.array(np.char.strip(texts))
    if (times := _as_times(column)) is not None:
        return np.asarray(times.to_numpy(zero_copy_only=False))
    row = next((row for row in range(len(column)) if _as_times(column.slice(row, 1)) is None), None)
    shown = "of two kinds: some times have a zone and some have none" if row is None else f"{str(texts[row])[:60]!r}"
    where = "" if row is None else f" in row {row} (counted from 0)"
    raise BadDataset(
        "bad_time", f"the time '{name}' is {shown}{where}; numbers or ISO 8601 are needed, such as 2024-05-31 12:00"
    )


def _as_times(column: pa.Array) -> pa.Array | None:
    for kind in (pa.float64(), *_TIMES):
        with suppress(pa.ArrowInvalid):
            return column.cast(kind)
    return None


def _check_present(array: Array, code: str, what: str) -> None:
    if array.dtype.kind in "fM":
        missing = np.isnan(array) if array.dtype.kind == "f" else np.isnat(array)
    else:
        missing = np.asarray(array == array.dtype.type()) if array.dtype.kind in "SU" else np.zeros(len(array), bool)
    if (row := _first(missing)) is not None:
        raise BadDataset(code, f"{what} is empty in row {row} (counted from 0)")


def _first(wrong: NDArray[np.bool_]) -> int | None:
    rows = np.flatnonzero(wrong)
    return int(rows[0]) if len(rows) else None
