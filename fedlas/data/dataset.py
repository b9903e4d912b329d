"""A dataset: rows with labels and fixed splits, or rows that are only to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.contract.profiles import Notice
from fedlas.errors import BadDataset

Array: TypeAlias = NDArray[Any]
Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

SPLITS = ("train", "calibration", "guarantee", "test")
SEEN_BY_MODEL = ("no", "train_split", "unknown")
#: No split can choose or judge anything with fewer rows.
MIN_SPLIT_ROWS = 10


@dataclass(frozen=True)
class Dataset:
    """Rows with labels and fixed splits, or, where not `labelled`, rows that are only to be predicted.

    Attributes:
        inputs: one array per model input, the first dimension of each is N.
        targets: class indices (N,) int64; none where there are no labels, and neither class names nor splits.
        class_names: one name per class; `class_names_given` tells whether the owner named them.
        splits: index into `SPLITS` (N,) int8; `drawn` tells whether they were drawn here rather than given.
        groups: (N,) int64, rows with equal numbers belong together; None where rows are independent.
        seen_by_model: which rows the uploaded model was trained on, one of `SEEN_BY_MODEL`.
        roles: role -> name of the column or array (a list of names for `slices`).
        slices: columns (N,) by name, numbers or text, by whose values a report looks at parts of the rows.
        weights: sampling weights (N,), how many rows of the population each row stands for; None where all count alike.
        ids: the owner's names of the rows (N,), numbers, text, or UTF-8 bytes.
        adjustments: what was done to the rows for their owner.
        columns: names of the columns of the single input that numeric columns form together, in order.
        reading: how the file was read (`padding` by input, `missing`), which answers for new rows repeat.
        matched_by: how labels became classes: `name` where both sides named them, else `index`.
        label_names: what the rows call each class where that is no name of its own but a number (`align`).
        file_rows: the row in the owner's file of each row here (N,), where they are kept in another order.
        labelled: rows without labels are kept whatever they hold, numbers that are not finite and files that are no
            image too: whoever predicts them finds out.
    """

    inputs: dict[str, Array]
    targets: Integers
    class_names: list[str]
    class_names_given: bool
    splits: NDArray[np.int8]
    groups: Integers | None = None
    seen_by_model: str = "unknown"
    warnings: list[str] = field(default_factory=list)
    roles: dict[str, str | Sequence[str]] = field(default_factory=dict)
    format: str = "npz"
    slices: dict[str, Array] = field(default_factory=dict)
    weights: NDArray[np.float64] | None = None
    ids: Array | None = None
    file_rows: Integers | None = None
    drawn: bool = False
    adjustments: list[Notice] = field(default_factory=list)
    columns: list[str] | None = None
    reading: dict[str, Any] | None = None
    labelled: bool = True
    matched_by: Literal["name", "index"] = "index"
    label_names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.targets) if self.labelled else len(next(iter(self.inputs.values())))

    def rows(self, *splits: str) -> Integers:
        """Indices of the rows of one split or several, in file order."""
        return np.flatnonzero(np.isin(self.splits, [SPLITS.index(split) for split in splits]))

    def select(self, *splits: str) -> tuple[dict[str, Array], Integers]:
        """Inputs and targets of these splits; nothing is copied where their rows lie side by side."""
        rows = self.rows(*splits)
        side_by_side = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1
        chosen = slice(int(rows[0]), int(rows[-1]) + 1) if side_by_side else rows
        return {name: array[chosen] for name, array in self.inputs.items()}, self.targets[rows]

    def groups_of(self, split: str) -> Integers | None:
        """Groups of the rows of one split, None where rows are independent."""
        return None if self.groups is None else self.groups[self.rows(split)]

    def weights_of(self, *splits: str) -> NDArray[np.float64] | None:
        """Sampling weights of the rows of these splits, None where all count the same."""
        return None if self.weights is None else self.weights[self.rows(*splits)]

    def in_file(self, rows: Integers) -> Integers:
        return rows if self.file_rows is None else self.file_rows[rows]

    def in_file_order(self) -> Integers:
        """Indices of all rows in the order of the owner's file."""
        return np.arange(len(self)) if self.file_rows is None else np.argsort(self.file_rows)

    def require(self, *splits: str) -> None:
        """Raise BadDataset: `unlabelled_dataset`, or `split_too_small` unless each split has `MIN_SPLIT_ROWS` rows."""
        if not self.labelled:
            raise BadDataset(
                "unlabelled_dataset", "nothing can be fitted to or judged on rows without labels: a label is needed"
            )
        for split in splits:
            if (count := len(self.rows(split))) < MIN_SPLIT_ROWS:
                raise BadDataset(
                    "split_too_small", f"the split '{split}' has {count} rows, at least {MIN_SPLIT_ROWS} are needed"
                )

    def profile(self) -> dict[str, Any]:
        return {
            "num_samples": len(self),
            "labelled": self.labelled,
            "inputs": [
                {"name": name, "dtype": array.dtype.name, "shape": ["N", *array.shape[1:]]}
                for name, array in self.inputs.items()
            ],
            "roles": dict(self.roles),
            "warnings": list(self.warnings),
            "adjustments": [notice.model_dump(mode="json") for notice in self.adjustments],
            "columns": self.columns,
            "reading": self.reading,
            **(self._labels() if self.labelled else {}),
        }

    def _labels(self) -> dict[str, Any]:
        counts = np.bincount(self.targets, minlength=len(self.class_names))
        return {
            "num_classes": len(self.class_names),
            "class_names": list(self.class_names),
            "class_counts": {n: int(c) for n, c in zip(self.class_names, counts, strict=True)},
            "seen_by_model": self.seen_by_model,
            "splits": {split: len(self.rows(split)) for split in SPLITS},
        }
