"""Classes that a dataset, or one of its splits, has no row of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlas.data.dataset import Dataset
from fedlas.notice import Notice, first_names

#: What it means that a split lacks a class.
_MEANS = {
    "calibration": "what was fitted on these rows has never met them",
    "guarantee": "what was fitted on these rows has never met them",
    "test": "nothing can be said of them",
}
_SHOWN = 5


def missing_classes(dataset: Dataset) -> list[Notice]:
    """`class_not_met`: for classes without any row, and for each split, but the train split, that lacks further ones.

    >>> data = Dataset({}, np.array([0, 1, 0]), ["a", "b"], True, np.array([1, 3, 3], np.int8))
    >>> missing_classes(data)[0].message
    '1 of 2 classes have no calibration row, so what was fitted on these rows has never met them: b.'
    """
    names = dataset.class_names
    met = np.bincount(dataset.targets, minlength=len(names)) > 0
    notices = []
    if not met.all():
        missing = [name for name, found in zip(names, met, strict=True) if not found]
        notices.append(_notice(missing, len(names), None, "what is fitted never meets them, and nothing judges them"))
    for split, means in _MEANS.items():
        here = np.bincount(dataset.targets[dataset.rows(split)], minlength=len(names)) > 0
        missing = [name for name, lacks in zip(names, met & ~here, strict=True) if lacks]
        if missing and here.any():
            notices.append(_notice(missing, len(names), split, means))
    return notices


def _notice(missing: Sequence[str], num_classes: int, split: str | None, means: str) -> Notice:
    listed = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
    rows = "row at all" if split is None else f"{split} row"
    return Notice(
        "class_not_met",
        f"{len(missing)} of {num_classes} classes have no {rows}, so {means}: {listed}.",
        {"split": split, "classes": first_names(missing), "missing": len(missing), "num_classes": num_classes},
    )
