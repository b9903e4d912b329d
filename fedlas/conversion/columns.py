"""Columns of rows: arrays by name with their roles, and the file that holds them (npz, parquet, csv)."""

from __future__ import annotations

import csv
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.errors import ConversionError

Array: TypeAlias = NDArray[Any]
#: Words of the contract, which `fedlas.data` says too; that needs Arrow, and a client may have none.
SPLITS = ("train", "calibration", "guarantee", "test")
ROLES = ("label", "split", "group", "slices", "weight", "time", "id")
LABEL_NAMES = ("label", "labels", "y", "target")


@dataclass
class Rows:
    """Arrays by name, all of one length.

    Attributes:
        columns: inputs, and what has a role.
        roles: role -> name among `columns`.
        table: whether each column is one of a table, whose numeric ones form the single input together.
    """

    columns: dict[str, Array]
    roles: dict[str, Any] = field(default_factory=dict)
    table: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str | None:
        return self.roles.get("label")

    def inputs(self) -> dict[str, Array]:
        taken = self.taken()
        return {name: array for name, array in self.columns.items() if name not in taken}

    def taken(self) -> set[str]:
        return {name for said in self.roles.values() for name in ([said] if isinstance(said, str) else said)}


def as_array(value: Any, name: str) -> Array:
    """An array of numbers or text; raises ConversionError for anything else."""
    if is_tensor(value):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    try:
        array = np.asarray(value)
        if array.dtype == object:
            array = np.array(array.tolist())
    except ValueError as error:
        raise ConversionError("ragged", f"'{name}' has rows of different lengths: pad them to one length") from error
    if array.dtype.kind not in "biufUSM":
        shown = next((type(item).__name__ for item in np.asarray(value, object).ravel()[:1]), "nothing")
        raise ConversionError("not_numbers", f"'{name}' holds Python objects ({shown}); numbers or text are needed")
    return array


def found_roles(columns: Iterable[str], roles: Mapping[str, Any]) -> dict[str, Any]:
    """Role -> name: what the caller says, else the well-known names."""
    names = list(columns)
    if unknown := [role for role in roles if role not in ROLES]:
        raise ConversionError("unknown_role", f"'{unknown[0]}' is no role; the roles are {', '.join(ROLES)}")
    for role, said in roles.items():
        for name in [said] if isinstance(said, str) else said:
            if name not in names:
                raise ConversionError(
                    "unknown_role_column", f"the role '{role}' names '{name}', but there are {', '.join(names[:50])}"
                )
    all_roles = {role: [role] if role == "slices" else role for role in ROLES if role in names} | dict(roles)
    if "label" not in all_roles and (label := next((name for name in LABEL_NAMES if name in names), None)):
        all_roles["label"] = label
    return all_roles


def class_name(value: Any) -> str:
    """The name of a class that an estimator holds as a value.

    >>> class_name(np.float64(3.0)), class_name(7), class_name("cat")
    ('3', '7', 'cat')
    """
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def named_inputs(inputs: Sequence[Any]) -> dict[str, Array]:
    """Inputs without names: `x`, or `x0`, `x1`, … in their order, as the file of a module calls them."""
    names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
    return {name: as_array(value, name) for name, value in zip(names, inputs, strict=True)}


def is_tensor(data: object) -> bool:
    """True for a tensor of PyTorch, which is not loaded for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.Tensor)


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
    distinct = np.unique(labels)
    numbers = all(str(value).lstrip("-").isdecimal() for value in distinct)  # words are matched by name later
    if not numbers or not all(str(value) in places for value in distinct):
        return labels
    if all(places[str(value)] == int(value) for value in distinct):
        return labels
    notes.append(f"The labels {', '.join(map(str, distinct[:10]))} were taken as names of classes.")
    indices: Array = np.array([places[str(value)] for value in distinct])
    return indices[np.searchsorted(distinct, labels)]
