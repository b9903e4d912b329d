"""The prepared copy of a dataset, which jobs read where it lies: rows sorted by split, large arrays mapped.

Sorted, the rows of a split lie side by side: training reads one stretch of the file and nothing is copied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.data.dataset import SPLITS, Array, Dataset
from fedlas.data.image_column import ImageColumn
from fedlas.data.memmap import MAPPED_FROM, read_arrays, write_arrays
from fedlas.documents import as_json
from fedlas.notice import Notice

_META = (
    "class_names",
    "class_names_given",
    "seen_by_model",
    "warnings",
    "roles",
    "format",
    "drawn",
    "labelled",
    "columns",
    "reading",
    "matched_by",
    "label_names",
)
_OPTIONAL = ("groups", "weights", "ids")
_NONE = np.empty(0, np.int64)


def save_dataset(dataset: Dataset, path: str | Path) -> None:
    """Write the prepared copy: an uncompressed npz file without pickles, rows sorted by split, else in file order.

    Of rows without labels it holds the inputs and the owner's names alone.
    """
    meta = {
        **{name: getattr(dataset, name) for name in _META},
        "inputs": list(dataset.inputs),
        "slices": list(dataset.slices),
        "adjustments": as_json(dataset.adjustments),
    }
    arrays: dict[str, Array] = {"meta": np.array(json.dumps(meta))}
    for i, array in enumerate(dataset.inputs.values()):
        arrays |= _input_arrays(f"input_{i}", array)
    arrays |= {f"slice_{i}": array for i, array in enumerate(dataset.slices.values())}
    if dataset.labelled:
        arrays |= {"targets": dataset.targets, "splits": dataset.splits}
        arrays |= {"file_rows": dataset.in_file(np.arange(len(dataset)))}
    arrays |= {name: array for name in _OPTIONAL if (array := getattr(dataset, name)) is not None}
    write_arrays(path, arrays, order=np.argsort(dataset.splits, kind="stable") if dataset.labelled else None)


def _input_arrays(name: str, array: Array) -> dict[str, Array]:
    """Files of images are written as they are, with the numbers of the rows that they belong to."""
    if not isinstance(array, ImageColumn):
        return {name: array}
    # One dimension more than rows, so that sorting the rows leaves the bytes and their places alone.
    return {f"{name}_data": array.data[None], f"{name}_offsets": array.offsets[None], name: np.arange(len(array))}


def load_dataset(path: str | Path, *, mapped_from: int = MAPPED_FROM) -> Dataset:
    """Read what `save_dataset` wrote; arrays of `mapped_from` bytes or more stay on disk until they are read."""
    arrays = read_arrays(path, mapped_from=mapped_from)
    meta: dict[str, Any] = json.loads(str(arrays["meta"]))
    names, slices = meta.pop("inputs"), meta.pop("slices", [])
    meta["adjustments"] = [Notice(**notice) for notice in meta.get("adjustments", [])]
    meta |= {name: arrays.get(name) for name in (*_OPTIONAL, "file_rows")}
    if "drawn" not in meta and meta["weights"] is not None:
        # An earlier version kept a sample of the calibration rows in which all count alike.
        meta["weights"] = np.where(arrays["splits"] == SPLITS.index("calibration"), 1.0, meta["weights"])
    return Dataset(
        inputs={name: _input(arrays, f"input_{i}") for i, name in enumerate(names)},
        targets=arrays.get("targets", _NONE),
        splits=arrays.get("splits", _NONE).astype(np.int8, copy=False),
        slices={name: arrays[f"slice_{i}"] for i, name in enumerate(slices)},
        **meta,
    )


def _input(arrays: dict[str, Array], name: str) -> Array:
    if f"{name}_data" not in arrays:
        return arrays[name]
    return ImageColumn(arrays[f"{name}_data"][0], arrays[f"{name}_offsets"][0], rows=arrays[name])  # type: ignore[return-value]
