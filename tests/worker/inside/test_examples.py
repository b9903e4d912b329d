"""The row of a dataset that its profile keeps, so that a trial of a model can begin with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlas.contract.options import DatasetOptions
from fedlas.contract.profiles import ExampleRow
from tests.helpers.uploads import npz
from worker.documents import InspectDatasetOrder
from worker.inside.inspection import inspect_dataset

LABELS = np.arange(60) % 2
SPLITS = np.repeat(["train", "calibration", "test"], 20)


def example(folder: Path, options: dict[str, Any] | None = None, **arrays: Any) -> ExampleRow | None:
    """The example of a file with these arrays, as a worker's child finds it."""
    (folder / "rows.npz").write_bytes(npz(label=LABELS, split=SPLITS, **arrays))
    order = InspectDatasetOrder(options=DatasetOptions(**(options or {})))
    return inspect_dataset(order, {"dataset": folder / "rows.npz"}, folder, lambda _: None).profile.example


def test_a_test_row_is_kept_as_one_would_type_it(tmp_path: Path) -> None:
    """An example has its row's number, its class, and numbers of seven digits; whole ones stay whole."""
    rows = np.full((60, 2), 1 / 3, np.float32)
    found = example(tmp_path, x=rows, ids=np.arange(120).reshape(60, 2))
    assert found == ExampleRow(row=40, label="0", inputs={"x": [0.3333333, 0.3333333], "ids": [80, 81]})


def test_what_is_missing_is_null(tmp_path: Path) -> None:
    """No database keeps NaN in JSON."""
    rows = np.ones((60, 1, 2), np.float32)
    rows[40, 0, 1] = np.nan
    found = example(tmp_path, {"missing": "nan"}, x=rows)
    assert found is not None
    assert found.inputs == {"x": [[1.0, None]]}


@pytest.mark.parametrize("shape", [(60, 1001), (60, 3, 32, 32)])
def test_long_rows_are_not_kept(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A profile stays small."""
    assert example(tmp_path, x=np.zeros(shape, np.float32)) is None
