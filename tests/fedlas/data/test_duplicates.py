"""Copies of train rows are left out of what calibrates and judges; repetitions that a coarse table has are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.data import SPLITS, Dataset, without_copies
from fedlas.errors import BadDataset

COUNTS = {"train": 400, "calibration": 200, "guarantee": 0, "test": 200}


def of(rows: NDArray[Any]) -> Dataset:
    """A dataset of these rows (800, D), the train rows first."""
    splits = np.repeat(np.arange(len(SPLITS), dtype=np.int8), list(COUNTS.values()))
    return Dataset({"x": rows}, np.arange(len(rows)) % 2, ["a", "b"], True, splits)


def table(values: int, columns: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, values, (800, columns)).astype(np.float32)


def test_copies_are_left_out_of_the_split_that_has_them() -> None:
    """Of 200 test rows 100 are train rows: the others judge, calibration rows stay, and the notice counts them."""
    rows = table(1000, 8)
    rows[600:700] = rows[:100]
    rest, (notice,) = without_copies(of(rows))
    assert (notice.code, notice.severity) == ("copied_rows", "warning")
    assert notice.evidence == {"copies": {"test": 100}, "rows": {"test": [600, 601, 602, 603, 604]}}
    assert rest.rows("test").tolist() == list(range(700, 800))
    assert len(rest.rows("calibration")) == 200


@pytest.mark.parametrize("columns", [3, 5, 6])
def test_what_a_coarse_table_repeats_by_chance_stays(columns: int) -> None:
    """Few values in few columns: up to nine of ten test rows are train rows, as train rows are of each other."""
    dataset = of(table(3, columns))
    assert without_copies(dataset) == (dataset, [])


def test_a_coarse_table_may_have_copies_too() -> None:
    """Beyond those that chance explains: half of the test rows are copies."""
    rows = table(3, 8)
    rows[600:700] = rows[:100]
    rest, (notice,) = without_copies(of(rows))
    assert 90 < len(rest.rows("test")) < 120
    assert notice.code == "copied_rows"


def test_a_split_of_nothing_but_copies_is_refused() -> None:
    """Nine rows cannot judge."""
    rows = table(1000, 8)
    rows[600:791] = rows[:191]
    with pytest.raises(BadDataset, match="9 test rows are left, at least 10 are needed") as caught:
        without_copies(of(rows))
    assert caught.value.code == "rows_seen"
