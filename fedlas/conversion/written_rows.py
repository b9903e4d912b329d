"""The file of rows: npz for arrays, parquet (or csv without Arrow) for tables, with labels that are classes."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.conversion.columns import Array, Rows
from fedlas.errors import ConversionError


def write_rows(
    rows: Rows, folder: Path, *, class_names: Sequence[str] | None = None
) -> tuple[Path, dict[str, object], list[str]]:
    """Write the rows, and return the file, its roles, and sentences on what was done."""
    notes = list(rows.notes)
    columns = dict(rows.columns)
    if rows.label is not None:
        columns[rows.label] = _labels(columns[rows.label], class_names, notes)
    if not rows.inputs():
        raise ConversionError("no_inputs", f"there is nothing but {', '.join(columns)}: no column is left as an input")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _write_table(columns, folder) if rows.table else _write_arrays(columns, folder)
    except OSError as error:
        raise ConversionError("cannot_write", f"{folder} cannot be written to: {error.strerror}") from error
    return path, dict(rows.roles), notes


def _write_arrays(columns: dict[str, Array], folder: Path) -> Path:
    path = folder / "dataset.npz"
    with zipfile.ZipFile(path, "w") as archive:  # as np.savez does, which takes no array called `file`
        for name, array in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return path


def _write_table(columns: dict[str, Array], folder: Path) -> Path:
    if find_spec("pyarrow") is not None:
        import pyarrow as pa
        from pyarrow import parquet

        path = folder / "dataset.parquet"
        parquet.write_table(pa.table({name: pa.array(array) for name, array in columns.items()}), path)
        return path
    path = folder / "dataset.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(array.tolist() for array in columns.values()), strict=True))
    return path


def _labels(labels: Array, class_names: Sequence[str] | None, notes: list[str]) -> Array:
    """Class indices (N,), or words."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        return _one_hot(labels, notes)
    if labels.ndim != 1:
        raise ConversionError("bad_labels", f"the labels have the shape {labels.shape}; one class per row is needed")
    if labels.dtype.kind == "f":
        labels = _whole(labels, notes)
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    return labels if class_names is None else _by_value(labels, class_names, notes)


def _whole(labels: Array, notes: list[str]) -> Array:
    wrong = np.flatnonzero(~np.isfinite(labels) | (labels != np.round(labels)))
    if len(wrong):
        row = int(wrong[0])
        raise ConversionError(
            "float_labels",
            f"the label is {labels[row]:g} in row {row} (counted from 0): labels are class indices or names, and "
            "targets of a regression are not calibrated here",
        )
    notes.append(
        f"The labels came as {labels.dtype.name} that are all whole numbers; they were taken as class indices."
    )
    return labels.astype(np.int64)


def _one_hot(labels: Array, notes: list[str]) -> Array:
    numeric = labels.dtype.kind in "biuf"
    if not numeric or not np.isin(labels, (0, 1)).all() or not (labels.sum(axis=1) == 1).all():
        raise ConversionError(
            "bad_labels",
            f"the labels have the shape {labels.shape} and are not one-hot: one class per row is needed "
            "(several labels at once and soft labels are not calibrated here)",
        )
    notes.append(f"The labels came one-hot {labels.shape}; the class is the column of the 1.")
    return np.asarray(labels.argmax(axis=1))


def _by_value(labels: Array, class_names: Sequence[str], notes: list[str]) -> Array:
    """The index of each label among names that are numbers; labels that are no such names are indices already."""
    places: dict[Any, int] = {name: i for i, name in enumerate(class_names)}
    found = np.unique(labels)
    numbers = all(str(value).lstrip("-").isdecimal() for value in found)  # words are matched by name later
    if not numbers or not all(str(value) in places for value in found):
        return labels
    if all(places[str(value)] == int(value) for value in found):
        return labels
    notes.append(f"The labels {', '.join(map(str, found[:10]))} were taken as names of classes.")
    indices: Array = np.array([places[str(value)] for value in found])
    return indices[np.searchsorted(found, labels)]
