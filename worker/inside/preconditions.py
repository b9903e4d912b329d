"""Preconditions of a job: rows that it cannot use are refused, and what splits lack is listed, before it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedlas.data import SPLITS, Dataset
from fedlas.data.memmap import pieces
from fedlas.errors import BadDataset
from fedlas.race.finite_outputs import require_numbers

if TYPE_CHECKING:
    from fedlas.classifier import Classifier


def check_test_groups(dataset: Dataset) -> None:
    """BadDataset `split_too_small` where the test rows are all of one group, on which nothing can be judged."""
    if dataset.groups is not None and len(np.unique(dataset.groups[dataset.rows("test")])) < 2:
        raise BadDataset(
            "split_too_small", "all rows of the split 'test' are of one group, at least 2 groups are needed"
        )


def check_rows(classifier: Classifier, dataset: Dataset) -> None:
    """Refuse before the race what could end in no report: test rows of one group, missing values it cannot read."""
    check_test_groups(dataset)
    for split in SPLITS:
        rows = dataset.rows(split)
        missing = np.zeros(len(rows), dtype=bool)
        for array in dataset.inputs.values():
            if array.dtype.kind == "f" and len(rows):
                parts = [np.isnan(part).any(axis=tuple(range(1, array.ndim))) for part in pieces(array, rows)]
                missing |= np.concatenate(parts)
        if missing.any():
            from fedlas.training.fit import predict_logits

            logits, features = predict_logits(classifier, [array[rows[missing]] for array in dataset.inputs.values()])
            require_numbers(logits, features, split=split, rows=dataset.in_file(rows[missing]))


def classes_not_met(dataset: Dataset) -> list[str]:
    """A sentence for each split that something is fitted on and that lacks a class."""
    notes = []
    for split in ("calibration", "guarantee"):
        counts = np.bincount(dataset.select(split)[1], minlength=len(dataset.class_names))
        names = [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0]
        if names and counts.any():
            notes.append(
                f"{len(names)} of {len(counts)} classes have no {split} row, so what was fitted on these rows has "
                f"never met them: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}."
            )
    return notes
