"""Scores as a dataset: logits or probabilities (N, K) are its only input, and the network behind them is not sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedlas.data.arrays import ArrayFactory
from fedlas.data.columns import Columns, check_lengths
from fedlas.data.dataset import SPLITS, Array, Dataset
from fedlas.data.file_format import told_format
from fedlas.data.formats.csv import CsvReader
from fedlas.data.formats.npz import NpzReader
from fedlas.data.labels import as_text
from fedlas.data.reading import build_dataset, class_names_of
from fedlas.data.roles import RoleNames, find_roles
from fedlas.data.splits import SCORES_SHARES, Shares, check_shares
from fedlas.errors import BadDataset

Kind = Literal["logits", "probabilities"]
#: More would not be answered within a request.
MAX_ROWS = 100_000
SUM_TOLERANCE = 1e-3

_READERS: dict[str, type[NpzReader] | type[CsvReader]] = {"npz": NpzReader, "csv": CsvReader}
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


def is_of_classes(name: str) -> bool:
    """True for a column, or array, of scores of several classes."""
    return name.lower() in _NAMES or _COLUMN.fullmatch(name) is not None


@dataclass(frozen=True)
class _Matrix:
    """Scores (N, K), the columns that they come from, and the names of the classes where those are known."""

    kind: Kind
    values: Array
    columns: list[str]
    names: list[str] | None = None


def read_scores(
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    roles: RoleNames | None = None,
    split_shares: Mapping[str, float] | None = None,
) -> Dataset:
    """Read scores and labels from an npz or csv file and fix the splits.

    The input is called `logits` or `probabilities` and is float32. `calibration` fits and `test` judges: as a column
    `split` says, else half and half, or by `split_shares`. That the network has seen none of the rows is assumed.

    Args:
        class_names: in the order of the columns; else those that the file or its columns name.
        roles, split_shares: as `read_dataset` takes them; since nothing is trained, a share of `train` fits too.

    Raises:
        BadDataset: with a code of its own for everything that can be wrong with a file.
    """
    format = told_format(path)
    if format not in _READERS:
        raise BadDataset("unsupported_format", f"scores are read from npz and csv files, and this is {format}")
    reader = _READERS[format](path)
    columns = reader.read(reader.names, ArrayFactory()).named
    if (given := columns.pop("class_names", None)) is not None and class_names is None:
        class_names = class_names_of(np.atleast_1d(given))
    chosen = find_roles(columns, roles)
    assert chosen.label is not None
    taken = chosen.columns()
    matrix = _matrix({name: array for name, array in columns.items() if name not in taken})
    named = {name: array for name, array in columns.items() if name in taken}
    check_lengths({**named, matrix.kind: matrix.values}, chosen.label)
    if (rows := len(matrix.values)) > MAX_ROWS:
        raise BadDataset("too_many_rows", f"{rows} rows were sent, at most {MAX_ROWS} are answered at once")
    matrix, warnings = _checked(_in_order(matrix, class_names)), []
    if unused := [name for name in columns if name not in taken and name not in matrix.columns]:
        warnings.append(f"These columns were not used: {', '.join(unused[:20])}.")
    names = matrix.names or _numbered(named[chosen.label], matrix)
    chosen = replace(chosen, warnings=warnings)
    scores = Columns(named, {matrix.kind: matrix.values})
    shares = _shares(split_shares, drawn=chosen.split is None)
    dataset = build_dataset(scores, chosen, names, "no", 0, format, shares=shares, trains=False)
    return _with_all_classes(dataset, matrix, sorted_words=names is None)


def _shares(given: Mapping[str, float] | None, *, drawn: bool) -> Shares | None:
    """Shares of splits that are drawn; what would train fits, since scores train nothing."""
    if given is None:
        return SCORES_SHARES if drawn else None
    shares = check_shares(given)
    shares[SPLITS.index("calibration")] += shares[SPLITS.index("train")]
    shares[SPLITS.index("train")] = 0
    return shares


def _matrix(arrays: Mapping[str, Array]) -> _Matrix:
    whole = [_Matrix(_NAMES[name.lower()], array, [name]) for name, array in arrays.items() if name.lower() in _NAMES]
    families: dict[Kind, list[tuple[str, str]]] = {}
    for name in arrays:
        if match := _COLUMN.fullmatch(name):
            families.setdefault(_NAMES[match[1].lower()], []).append((name, match[2]))
    found_all = [*(matrix.columns[0] for matrix in whole), *(members[0][0] for members in families.values())]
    if not found_all:
        raise BadDataset(
            "no_scores",
            f"neither logits nor probabilities among {', '.join(arrays) or 'no columns'}; send an array 'logits' "
            "(N, K), or columns logit_0, logit_1, … (or probabilities, probability_0, …), or 'score', or 'signal_…'",
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
        values = _parsed(name, as_text(values))
    if values.ndim != 2 or values.shape[1] < 2:
        raise BadDataset(
            "bad_shape",
            f"'{name}' has shape {values.shape}; (N, K) with a column for each of K ≥ 2 classes is needed "
            "(a single logit s: the two columns 0 and s; a single probability p: 1 − p and p)",
        )
    return replace(matrix, values=values)


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


def _from_columns(kind: Kind, members: list[tuple[str, str]], arrays: Mapping[str, Array]) -> _Matrix:
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
    if len({len(arrays[column]) for column in columns}) > 1:
        raise BadDataset("length_mismatch", f"the columns {', '.join(columns[:20])} are not of one length")
    if len(columns) < 2:
        raise BadDataset("bad_shape", f"only the column '{columns[0]}' was found; one for each of K ≥ 2 is needed")
    return _Matrix(kind, np.stack([arrays[column] for column in columns], axis=1), columns, names)


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
        return replace(matrix, names=list(class_names))
    if sorted(matrix.names) != sorted(class_names):
        raise BadDataset(
            "class_names_mismatch",
            f"class_names are {', '.join(class_names[:20])}, but the columns name {', '.join(matrix.names[:20])}",
        )
    order = [matrix.names.index(name) for name in class_names]
    return replace(matrix, values=matrix.values[:, order], names=list(class_names))


def _checked(matrix: _Matrix) -> _Matrix:
    """Scores as finite float32; BadDataset for others."""
    if matrix.values.dtype.kind not in "biuf":
        raise BadDataset("bad_scores", f"the scores hold {matrix.values.dtype}, not numbers")
    values = matrix.values.astype(np.float64)
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all():
        row, column = (int(place) for place in np.argwhere(~np.isfinite(rounded))[0])
        score = values[row, column]
        reason = "too large for float32" if np.isfinite(score) else "no finite number"
        raise BadDataset(
            "non_finite", f"the {matrix.kind} are {score} in row {row}, column {column} (counted from 0): {reason}"
        )
    faults = {
        "negative": values.min(axis=1) < 0,
        "not summing to 1 (within 0.001)": np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE,
    }
    faulty = next((words for words, bad in faults.items() if bad.any()), None)
    if matrix.kind == "logits":
        return replace(matrix, values=rounded)
    if faulty:
        bad = faults[faulty]
        row = int(np.flatnonzero(bad)[0])
        shown = ", ".join(f"{value:.6g}" for value in values[row, :10])
        message = f"the probabilities are {faulty} in row {row} (counted from 0): {shown}"
        raise BadDataset("not_probabilities", f"{message}; {int(bad.sum())} of {len(bad)} rows are so")
    return replace(matrix, values=rounded)


def _numbered(labels: Array, matrix: _Matrix) -> list[str] | None:
    """The classes 0, 1, …, or None where the labels are words, which name the classes."""
    if labels.dtype.kind in "SU" and not all(text.lstrip("-").isdecimal() for text in np.unique(as_text(labels))):
        return None
    return [str(index) for index in range(matrix.values.shape[1])]


def _with_all_classes(dataset: Dataset, matrix: _Matrix, *, sorted_words: bool) -> Dataset:
    """The dataset with a sentence on what was decided; BadDataset where words do not tell the columns apart."""
    classes, words = matrix.values.shape[1], dataset.class_names
    if len(words) != classes:
        raise BadDataset(
            "class_names_needed",
            f"'{dataset.roles['label']}' holds {len(words)} different words for {classes} columns of scores: "
            "send class_names in the order of the columns",
        )
    warnings = list(dataset.warnings)
    if sorted_words:
        warnings.append(f"Words were taken as columns in sorted order: {', '.join(words[:20])}.")
    if unused := int((dataset.splits == SPLITS.index("train")).sum()):
        warnings.append(f"{unused} rows of the split train were not used.")
    return replace(dataset, warnings=warnings)
