"""Rows that occur in more than one split, found by the digest of all their inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from fedlas.data.dataset import MIN_SPLIT_ROWS, SPLITS, Dataset, Integers
from fedlas.data.row_digests import row_digests
from fedlas.data.splits import SET_ASIDE
from fedlas.errors import BadDataset
from fedlas.notice import Notice

Digests: TypeAlias = NDArray[np.uint64]

#: The chance that rows drawn like the train rows would repeat as many of them.
_CHANCE = 1e-6


def shared_rows(dataset: Dataset, split: str = "test") -> dict[str, int]:
    """How many rows of `split` have exactly the same inputs as some row of each other split (those that have any).

    >>> inputs = {"x": np.array([[1.0], [2.0], [1.0]])}
    >>> data = Dataset(inputs, np.array([0, 1, 0]), ["a", "b"], True, np.array([0, 0, 3], np.int8))
    >>> shared_rows(data)
    {'train': 1}
    """
    mine = _digests(dataset, split)
    found = {name: int(np.isin(mine, _digests(dataset, name)).sum()) for name in SPLITS if name != split}
    return {name: count for name, count in found.items() if count}


def without_copies(dataset: Dataset) -> tuple[Dataset, list[Notice]]:
    """The dataset without the calibration, guarantee and test rows that are copies of train rows, and who they were.

    A network knows its train rows by heart, so copies of them can neither calibrate nor judge. Coarse tables repeat
    rows by nature. There, train rows have as many twins among themselves: a split has copies where its rows are
    repetitions of single train rows more often than train rows are, beyond chance.

    Raises:
        BadDataset: `rows_seen` where fewer than ten rows of a split that calibrates or judges are left.
    """
    contents, counts = np.unique(_digests(dataset, "train"), return_counts=True)
    found = {split: _copies(dataset, split, contents, counts) for split in SPLITS[1:] if len(contents)}
    copies = {split: rows for split, rows in found.items() if len(rows)}
    if not copies:
        return dataset, []
    said = ", ".join(f"{len(rows):,} of {len(dataset.rows(split)):,} {split} rows" for split, rows in copies.items())
    splits = dataset.splits.copy()
    splits[np.concatenate(list(copies.values()))] = SET_ASIDE
    rest = replace(dataset, splits=splits)
    for split in copies.keys() - {"guarantee"}:
        if (left := len(rest.rows(split))) < MIN_SPLIT_ROWS:
            raise BadDataset(
                "rows_seen",
                f"{said} have exactly the inputs of train rows; {left} {split} rows are left, at least "
                f"{MIN_SPLIT_ROWS} are needed: send {split} rows that are not among the train rows",
            )
    message = (
        f"{said} have exactly the inputs of train rows, far more than chance repeats: they are left out, since the "
        "model may know them by heart. Look for rows that were copied between the splits."
    )
    first = {split: dataset.in_file(rows[:5]).tolist() for split, rows in copies.items()}
    return rest, [Notice("copied_rows", message, {"copies": {k: len(v) for k, v in copies.items()}, "rows": first})]


def _copies(dataset: Dataset, split: str, contents: Digests, counts: NDArray[np.int64]) -> Integers:
    """The rows of a split that repeat single train rows (of `contents`), none where chance explains them."""
    mine = _digests(dataset, split)
    copies = dataset.rows(split)[np.isin(mine, contents[counts == 1])]
    # Of two equal train rows each repeats one that is single among the others: a pair of n rows tells of n / 2 draws.
    pairs, draws = int((counts == 2).sum()), int(counts.sum()) / 2
    chance = betainc(len(copies), pairs + 1, len(mine) / (len(mine) + draws)) if len(copies) else 1.0
    return copies if chance < _CHANCE else copies[:0]


def _digests(dataset: Dataset, split: str) -> Digests:
    return row_digests(list(dataset.inputs.values()), dataset.rows(split))
