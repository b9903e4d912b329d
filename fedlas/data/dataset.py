"""A labelled dataset in memory and as a prepared copy on disk; it does not know how files are read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.errors import BadDataset

Array: TypeAlias = NDArray[Any]
Integers: TypeAlias = NDArray[np.int64]

SPLITS = ("train", "calibration", "guarantee", "test")
SEEN_BY_MODEL = ("no", "train_split", "unknown")

#: No split can choose or judge anything with fewer rows.
MIN_SPLIT_ROWS = 10

_META = ("class_names", "class_names_given", "seen_by_model", "warnings", "roles", "format")


@dataclass(frozen=True)
class Dataset:
    """Rows with labels and fixed splits.

    Attributes:
        inputs: one array per model input, the first dimension of each is N.
        targets: class indices (N,) int64.
        class_names: one name per class; `class_names_given` tells whether the owner named them.
        splits: index into `SPLITS` (N,) int8.
        groups: (N,) int64, rows with equal numbers belong together; None where rows are independent.
        seen_by_model: which rows the uploaded model was trained on, one of `SEEN_BY_MODEL`.
        roles: role -> name of the column or array (a list of names for `slices`).
        slices: columns (N,) by name, numbers or text, by whose values a report looks at parts of the rows.
        weights: sampling weights (N,), how many rows of the population each row stands for; None where all count alike.
        ids: the owner's names of the rows (N,), numbers or text.
    """

    inputs: dict[str, Array]
    targets: Integers
    class_names: list[str]
    class_names_given: bool
    splits: NDArray[np.int8]
    groups: Integers | None = None
    seen_by_model: str = "unknown"
    warnings: list[str] = field(default_factory=list)
    roles: dict[str, Any] = field(default_factory=dict)
    format: str = "npz"
    slices: dict[str, Array] = field(default_factory=dict)
    weights: NDArray[np.float64] | None = None
    ids: Array | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, split: str) -> Integers:
        """Indices of the rows of one split, in file order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def select(self, split: str) -> tuple[dict[str, Array], Integers]:
        """Inputs and targets of one split."""
        rows = self.rows(split)
        return {name: array[rows] for name, array in self.inputs.items()}, self.targets[rows]

    def require(self, *splits: str) -> None:
        """Raise BadDataset `split_too_small` unless each of the splits has `MIN_SPLIT_ROWS` rows."""
        for split in splits:
            if (count := len(self.rows(split))) < MIN_SPLIT_ROWS:
                raise BadDataset(
                    "split_too_small",
                    f"the split '{split}' has {count} rows, at least {MIN_SPLIT_ROWS} are needed",
                )

    def profile(self) -> dict[str, Any]:
        """What the record of a dataset shows, ready for JSON."""
        counts = np.bincount(self.targets, minlength=len(self.class_names))
        return {
            "num_samples": len(self),
            "num_classes": len(self.class_names),
            "class_names": list(self.class_names),
            "class_counts": {n: int(c) for n, c in zip(self.class_names, counts, strict=True)},
            "inputs": [
                {"name": name, "dtype": array.dtype.name, "shape": ["N", *array.shape[1:]]}
                for name, array in self.inputs.items()
            ],
            "roles": dict(self.roles),
            "seen_by_model": self.seen_by_model,
            "splits": {split: len(self.rows(split)) for split in SPLITS},
            "warnings": list(self.warnings),
        }

    def save(self, path: str | Path) -> None:
        """Write the prepared copy that jobs read: an uncompressed npz without pickles."""
        meta = json.dumps(
            {**{name: getattr(self, name) for name in _META}, "inputs": list(self.inputs), "slices": list(self.slices)}
        )
        arrays: dict[str, Array] = {f"input_{i}": array for i, array in enumerate(self.inputs.values())}
        arrays |= {"targets": self.targets, "splits": self.splits, "meta": np.array(meta)}
        arrays |= {f"slice_{i}": array for i, array in enumerate(self.slices.values())}
        optional = {"groups": self.groups, "weights": self.weights, "ids": self.ids}
        arrays |= {name: array for name, array in optional.items() if array is not None}
        with Path(path).open("wb") as file:  # np.savez adds ".npz" to a name that lacks it
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            names, slices = meta.pop("inputs"), meta.pop("slices", [])
            return cls(
                inputs={name: file[f"input_{i}"] for i, name in enumerate(names)},
                targets=file["targets"],
                splits=file["splits"],
                **{name: file[name] for name in ("groups", "weights", "ids") if name in file.files},
                slices={name: file[f"slice_{i}"] for i, name in enumerate(slices)},
                **meta,
            )
