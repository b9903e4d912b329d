"""Classes that a split has no row of."""

from __future__ import annotations

import numpy as np

from fedlas.data.dataset import Dataset
from fedlas.notice import Notice

#: What a class means that a split lacks.
_MEANS = {
    "calibration": "what was fitted on these rows has never met them",
    "guarantee": "what was fitted on these rows has never met them",
    "test": "nothing can be said of them",
}
_SHOWN = 5


def missing_classes(dataset: Dataset) -> list[Notice]:
    """A `class_not_met` for each split, but the train split, that has rows and lacks a class.

    >>> data = Dataset({}, np.array([0, 1, 0]), ["a", "b"], True, np.array([1, 3, 3], np.int8))
    >>> missing_classes(data)[0].message
    '1 of 2 classes have no calibration row, so what was fitted on these rows has never met them: b.'
    """
    notices = []
    for split, means in _MEANS.items():
        counts = np.bincount(dataset.targets[dataset.rows(split)], minlength=len(dataset.class_names))
        names = [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0]
        if names and counts.any():
            listed = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
            notices.append(
                Notice(
                    "class_not_met",
                    f"{len(names)} of {len(counts)} classes have no {split} row, so {means}: {listed}.",
                    {"split": split, "classes": names[:200], "missing": len(names), "num_classes": len(counts)},
                )
            )
    return notices
