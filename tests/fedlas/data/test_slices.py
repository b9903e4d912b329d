"""Columns that name parts of the rows, and rows that occur in more than one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlas.data import SPLITS, Dataset, ReadingOptions, load_dataset, read_dataset, save_dataset, shared_rows
from fedlas.errors import BadDataset

LABELS = np.arange(200) % 4
SITES = np.array(["Łódź", "Zürich", ""])[np.arange(200) % 3]
AGES = np.linspace(20, 80, 200)


def dataset(inputs: dict[str, np.ndarray], splits: list[str]) -> Dataset:
    codes = np.array([SPLITS.index(split) for split in splits], np.int8)
    return Dataset(inputs, np.zeros(len(codes), np.int64), ["a"], False, codes)


@pytest.mark.parametrize("format", ["npz", "csv"])
def test_slices_are_read_stored_and_loaded(format: str, tmp_path: Path) -> None:
    """Text stays text, numbers stay numbers, row by row, no slice becomes an input, and the copy on disk is equal."""
    path = tmp_path / f"data.{format}"
    if format == "npz":
        np.savez(path, x=np.arange(200.0), label=LABELS, site=SITES, age=AGES)
    else:
        lines = [f"{i},{LABELS[i]},{SITES[i] or 'none'},{float(AGES[i])!r}" for i in range(200)]
        path.write_text("x,label,site,age\n" + "\n".join(lines) + "\n", encoding="utf-8")
    read = read_dataset(path, ReadingOptions(roles={"slices": ["site", "age"]}))
    save_dataset(read, tmp_path / "copy")
    sites = SITES if format == "npz" else np.where(SITES == "", "none", SITES)
    for found in (read, load_dataset(tmp_path / "copy")):
        rows = found.in_file_order()
        assert list(found.slices) == ["site", "age"]
        assert found.slices["site"][rows].tolist() == sites.tolist()
        np.testing.assert_array_equal(found.slices["age"][rows], AGES)
        assert found.slices["site"].dtype.kind == "U"
        assert found.roles["slices"] == ["site", "age"]
        assert sum(array[0].size for array in found.inputs.values()) == 1, "x alone is an input"


def test_a_dataset_without_slices_has_none(tmp_path: Path) -> None:
    """Nothing is taken for a slice that was not called one; an old copy without slices is still read."""
    np.savez(tmp_path / "data.npz", x=np.arange(200.0), label=LABELS)
    read = read_dataset(tmp_path / "data.npz")
    save_dataset(read, tmp_path / "copy")
    assert read.slices == load_dataset(tmp_path / "copy").slices == {}


def test_a_slice_needs_one_value_per_row(tmp_path: Path) -> None:
    """An array of vectors is refused by name."""
    np.savez(tmp_path / "data.npz", x=np.arange(200.0), label=LABELS, site=np.zeros((200, 2)))
    with pytest.raises(BadDataset, match=r"slice 'site' needs one value per row, got shape \(200, 2\)"):
        read_dataset(tmp_path / "data.npz", ReadingOptions(roles={"slices": ["site"]}))


def test_shared_rows_are_counted_per_split() -> None:
    """Test rows 0, 1, 1, 2 share two with the train rows 1, 9 and three with 0, 1, 1; none is a 7."""
    values = [1, 9, 0, 1, 1, 7, 0, 1, 1, 2]
    splits = ["train"] * 2 + ["calibration"] * 3 + ["guarantee"] + ["test"] * 4
    data = dataset({"x": np.array(values, np.float32)[:, None]}, splits)
    assert shared_rows(data) == {"train": 2, "calibration": 3}
    assert shared_rows(data, "guarantee") == {}
    assert shared_rows(data, "train") == {"calibration": 1, "test": 1}


def test_a_row_is_shared_only_if_every_input_is() -> None:
    """Equal pixels with another text are another row; non-contiguous arrays are compared by their values."""
    pixels = np.zeros((4, 2, 2), np.uint8)
    words = np.array([[1, 2], [3, 4], [1, 2], [5, 6]]).T.copy().T
    splits = ["train", "train", "test", "test"]
    assert shared_rows(dataset({"pixels": pixels, "words": words}, splits)) == {"train": 1}
    assert shared_rows(dataset({"pixels": pixels}, splits)) == {"train": 2}


def test_no_test_rows_share_nothing() -> None:
    """An empty split has no shared rows."""
    assert shared_rows(dataset({"x": np.zeros((3, 1))}, ["train"] * 3)) == {}
