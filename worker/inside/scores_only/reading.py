"""Scores and labels from an npz or csv file that nobody has opened before; it fits nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlas.data.file_format import told_format
from fedlas.data.formats.csv import read_csv
from fedlas.data.formats.npz import read_npz
from fedlas.data.labels import Labels, read_labels
from fedlas.data.roles import LABEL_NAMES
from fedlas.errors import BadDataset

Array = NDArray[Any]
Floats = NDArray[np.float64]
Kind = Literal["logits", "probabilities"]

#: More would not be answered within a request.
MAX_ROWS = 100_000
#: How far the probabilities of a row may be from summing to 1.
SUM_TOLERANCE = 1e-3
#: A probability of 0 counts as this when its logarithm is taken, here and in the file.
SMALLEST = float(np.finfo(np.float32).tiny)

_NAMES: dict[str, Kind] = {
    "logits": "logits",
    "logit": "logits",
    "probabilities": "probabilities",
    "probability": "probabilities",
    "probs": "probabilities",
    "prob": "probabilities",
}
#: `logit_0`, `probability_cat`, `probs.1`, `logits 2`, `logit3`.
_COLUMN = re.compile(rf"({'|'.join(_NAMES)})(?:[_.\- ]|(?=\d))(.+)", re.IGNORECASE)
_OTHER_ROLES = ("split", "group")
_READERS = {"npz": read_npz, "csv": read_csv}


@dataclass(frozen=True)
class Scores:
    """What was sent.

    Attributes:
        values: (N, K) float64 that float32 holds exactly, since that is what the file will be given.
        targets: class indices (N,) int64.
        split, group: the columns of that name (N,), or None.
        notes: sentences on what was read how.
    """

    kind: Kind
    values: Floats
    targets: NDArray[np.int64]
    class_names: list[str]
    split: Array | None = None
    group: Array | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def logits(self) -> Floats:
        """Logits (N, K); those of probabilities are their logarithms."""
        return self.values if self.kind == "logits" else np.log(np.maximum(self.values, SMALLEST))


@dataclass(frozen=True)
class _Matrix:
    kind: Kind
    values: Array
    columns: list[str]
    names: list[str] | None = None  # where the columns name the classes


def read_scores(path: str | Path, *, class_names: Sequence[str] | None = None) -> Scores:
    """Read and check everything.

    Raises:
        BadDataset: with a code of its own for everything that can be wrong with a file.
    """
    format = told_format(path)
    if format not in _READERS:
        raise BadDataset("unsupported_format", f"scores are read from npz and csv files, and this is {format}")
    arrays = _READERS[format](path)
    if class_names is None and "class_names" in arrays:
        class_names = [str(name) for name in np.atleast_1d(arrays["class_names"])]
    arrays.pop("class_names", None)
    label = _label_name(arrays)
    matrix = _matrix({name: array for name, array in arrays.items() if name not in (label, *_OTHER_ROLES)})
    _check_lengths(arrays, len(matrix.values), [label, *_OTHER_ROLES])
    if len(matrix.values) > MAX_ROWS:
        raise BadDataset(
            "too_many_rows", f"{len(matrix.values)} rows were sent, at most {MAX_ROWS} are answered at once"
        )
    matrix = _in_order(matrix, class_names)
    labels, notes = _labels(label, arrays[label], matrix, class_names)
    values, more = _checked(matrix)
    unused = [name for name in arrays if name not in (label, *_OTHER_ROLES, *matrix.columns)]
    if unused:
        notes.append(f"These columns were not used: {', '.join(unused[:20])}.")
    roles = {role: arrays.get(role) for role in _OTHER_ROLES}
    return Scores(matrix.kind, values, labels.targets, labels.class_names, **roles, notes=[*notes, *more])


def _label_name(arrays: dict[str, Array]) -> str:
    for name in LABEL_NAMES:
        if name in arrays:
            return name
    known = ", ".join(LABEL_NAMES)
    raise BadDataset("no_label", f"no label among {', '.join(arrays) or 'no columns'}; name one of them {known}")


def _matrix(arrays: dict[str, Array]) -> _Matrix:
    """The one array, list column, or family of columns that holds scores."""
    whole = [_Matrix(_NAMES[name.lower()], array, [name]) for name, array in arrays.items() if name.lower() in _NAMES]
    families: dict[Kind, list[tuple[str, str]]] = {}
    for name in arrays:
        if found := _COLUMN.fullmatch(name):
            families.setdefault(_NAMES[found[1].lower()], []).append((name, found[2]))
    found_all = [*(matrix.columns[0] for matrix in whole), *(members[0][0] for members in families.values())]
    if not found_all:
        raise BadDataset(
            "no_scores",
            f"neither logits nor probabilities among {', '.join(arrays) or 'no columns'}; send an array 'logits' "
            "(N, K), or columns logit_0, logit_1, … (or probabilities, probability_0, …)",
        )
    if len(found_all) > 1:
        raise BadDataset("ambiguous_scores", f"either logits or probabilities, once: found {', '.join(found_all)}")
    if whole:
        return _shaped(whole[0])
    ((kind, members),) = families.items()
    return _from_columns(kind, members, arrays)


def _shaped(matrix: _Matrix) -> _Matrix:
    (name,) = matrix.columns
    values = matrix.values
    if values.dtype.kind in "US" and values.ndim == 1:
        values = _parsed(name, values)
    if values.ndim != 2 or values.shape[1] < 2:
        raise BadDataset(
            "bad_shape",
            f"'{name}' has shape {values.shape}; (N, K) with a column for each of K ≥ 2 classes is needed "
            "(a single logit s: the two columns 0 and s; a single probability p: 1 − p and p)",
        )
    return _Matrix(matrix.kind, values, matrix.columns)


def _parsed(name: str, texts: Array) -> Array:
    """Rows (N, K) of a csv column that holds lists, `[0.1, 0.9]`."""
    rows: list[list[float]] = []
    for row, text in enumerate(texts):
        try:
            numbers = [float(value) for value in json.loads(str(text))]
        except (TypeError, ValueError) as error:
            raise BadDataset(
                "bad_scores", f"'{name}' is {str(text)[:60]!r} in row {row}, no list of numbers"
            ) from error
        if rows and len(numbers) != len(rows[0]):
            raise BadDataset("bad_scores", f"'{name}' has {len(numbers)} values in row {row}, {len(rows[0])} before")
        rows.append(numbers)
    return np.array(rows, dtype=np.float64)


def _from_columns(kind: Kind, members: list[tuple[str, str]], arrays: dict[str, Array]) -> _Matrix:
    suffixes = [suffix for _, suffix in members]
    names: list[str] | None = suffixes
    if all(suffix.isdecimal() for suffix in suffixes):
        members = sorted(members, key=lambda member: int(member[1]))
        names = None
        if [int(suffix) for _, suffix in members] != list(range(len(members))):
            shown = ", ".join(column for column, _ in members[:20])
            raise BadDataset("bad_columns", f"the columns must be numbered 0, 1, …, K − 1 without a gap; found {shown}")
    columns = [column for column, _ in members]
    for column in columns:
        if arrays[column].ndim != 1 or arrays[column].dtype.kind not in "biuf":
            raise BadDataset(
                "bad_scores", f"the column '{column}' holds {arrays[column].dtype}, not one number per row"
            )
    if len(columns) < 2:
        raise BadDataset("bad_shape", f"only the column '{columns[0]}' was found; one for each of K ≥ 2 is needed")
    return _Matrix(kind, np.stack([arrays[column] for column in columns], axis=1), columns, names)


def _check_lengths(arrays: dict[str, Array], rows: int, names: Sequence[str]) -> None:
    for name in names:
        if name in arrays and arrays[name].shape[:1] != (rows,):
            raise BadDataset(
                "length_mismatch", f"'{name}' has shape {arrays[name].shape}, but there are scores of {rows} rows"
            )
        if name in _OTHER_ROLES and name in arrays and arrays[name].ndim != 1:
            raise BadDataset("bad_role", f"'{name}' needs one value per row, got shape {arrays[name].shape}")
    if rows == 0:
        raise BadDataset("empty", "there are no rows")


def _in_order(matrix: _Matrix, class_names: Sequence[str] | None) -> _Matrix:
    """The columns in the order of `class_names`; BadDataset where the two do not fit."""
    classes = matrix.values.shape[1]
    if class_names is None:
        return matrix
    if len(class_names) != classes or len(set(class_names)) != classes:
        raise BadDataset(
            "class_names_mismatch",
            f"class_names has {len(class_names)} names ({', '.join(class_names[:20])}), the scores {classes} columns",
        )
    if matrix.names is None:
        return matrix
    if sorted(matrix.names) != sorted(class_names):
        raise BadDataset(
            "class_names_mismatch",
            f"class_names are {', '.join(class_names[:20])}, but the columns name {', '.join(matrix.names[:20])}",
        )
    order = [matrix.names.index(name) for name in class_names]
    return _Matrix(matrix.kind, matrix.values[:, order], matrix.columns, list(class_names))


def _labels(name: str, array: Array, matrix: _Matrix, class_names: Sequence[str] | None) -> tuple[Labels, list[str]]:
    """Labels as columns of the scores, and how text was mapped where nobody said it."""
    classes = matrix.values.shape[1]
    names = class_names or matrix.names
    if names is not None:
        return read_labels(name, array, names), []
    if array.dtype.kind in "US":
        labels = read_labels(name, array)
        if labels.given:
            if len(labels.class_names) != classes:
                raise BadDataset(
                    "class_names_needed",
                    f"'{name}' holds {len(labels.class_names)} different words for {classes} columns of scores: "
                    "send class_names in the order of the columns",
                )
            return labels, [f"Words were taken as columns in sorted order: {', '.join(labels.class_names[:20])}."]
    return read_labels(name, array, [str(index) for index in range(classes)]), []


def _checked(matrix: _Matrix) -> tuple[Floats, list[str]]:
    """Finite float32 values as float64, probabilities that are some, and a sentence on what looks odd."""
    if matrix.values.dtype.kind not in "biuf":
        raise BadDataset("bad_scores", f"the scores hold {matrix.values.dtype}, not numbers")
    values = matrix.values.astype(np.float64)
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32).astype(np.float64)
    if not np.isfinite(rounded).all():
        row, column = (int(place) for place in np.argwhere(~np.isfinite(rounded))[0])
        found = values[row, column]
        reason = "too large for float32" if np.isfinite(found) else "no finite number"
        raise BadDataset(
            "non_finite", f"the {matrix.kind} are {found} in row {row}, column {column} (counted from 0): {reason}"
        )
    off = np.abs(values.sum(axis=1) - 1)
    if matrix.kind == "logits":
        odd = bool((off <= SUM_TOLERANCE).all() and values.min() >= 0)
        note = "Every row of the logits is positive and sums to 1: if they are probabilities, send them as such."
        return rounded, [note] if odd else []
    for bad, words in ((values.min(axis=1) < 0, "negative"), (off > SUM_TOLERANCE, "not summing to 1 (within 0.001)")):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            shown = ", ".join(f"{value:.6g}" for value in values[row, :10])
            message = f"the probabilities are {words} in row {row} (counted from 0): {shown}"
            raise BadDataset("not_probabilities", f"{message}; {int(bad.sum())} of {len(bad)} rows are so")
    return rounded, []
