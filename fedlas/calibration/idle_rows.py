"""Idle rows: train rows that were drawn and that nothing is trained on serve as calibration rows too.

A calibrator learns from every row that the network has not seen, and of a drawn split it has seen none. Which rows
these are follows from the order and the dataset's record alone, before the network has answered any of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedlas.data import SPLITS, Dataset
from fedlas.data.dataset import Integers

#: Calibration rows times classes up to which idle rows join them: beyond, matrix scaling and other calibrators with
#: many parameters would be left out for want of time (`fedlas.race.scoring`), which costs more than rows bring.
MOST_SCORES = 500_000


def idle_rows(dataset: Dataset, *, most_scores: float = MOST_SCORES, seed: int = 0) -> Integers:
    """The train rows (M,), ascending, that may calibrate where nothing is trained; groups stay whole.

    There are none unless the splits were drawn and the network has seen no row. In a split by time train rows are the
    oldest, and calibration is what drifts first, so they stay idle. Calibration rows times classes stay within
    `most_scores`; where there are too many rows, `seed` draws some.
    """
    train = dataset.rows("train")
    room = int(most_scores) // len(dataset.class_names) - len(dataset.rows("calibration"))
    if not dataset.drawn or dataset.seen_by_model != "no" or "time" in dataset.roles or room <= 0:
        return train[:0]
    if len(train) <= room:
        return train
    codes = np.arange(len(train))
    if dataset.groups is not None:
        codes = np.unique(dataset.groups[train], return_inverse=True)[1]
    sizes = np.bincount(codes)
    order = np.random.default_rng(seed).permutation(len(sizes))
    return train[np.isin(codes, order[np.cumsum(sizes[order]) <= room])]


def as_calibration_rows(dataset: Dataset, rows: Integers) -> Dataset:
    """The dataset with these rows (M,) in the split `calibration`; the others stay where they are."""
    splits = dataset.splits.copy()
    splits[rows] = SPLITS.index("calibration")
    return replace(dataset, splits=splits)
