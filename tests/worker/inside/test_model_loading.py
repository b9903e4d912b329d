"""A job's dataset as the model has seen it: what an earlier job trained on is not unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.data.duplicates import SeenRows
from fedlas.errors import BadDataset
from tests.helpers.gaussian_classes import OVERCONFIDENT, SPLITS, network, words, world
from tests.helpers.plan_orders import an_order
from worker.documents import JobOrder
from worker.inside.channel import Files
from worker.inside.model_loading import open_job

Rows = dict[str, NDArray[Any]]


def test_shares_of_a_record_are_those_of_the_splits(tmp_path: Path) -> None:
    """Shares in the options of a record reach the reader of the file."""
    rows = {name: array for name, array in world().items() if name != "split"}
    shares = {"calibration": 0.4, "guarantee": 0.1, "test": 0.5}
    order, files = an_order(tmp_path, rows, network(OVERCONFIDENT), dataset_options={"split_shares": shares})
    _, dataset, _ = open_job(order, files, tmp_path)
    assert dataset.profile()["splits"] == {"train": 0, "calibration": 360, "guarantee": 90, "test": 450}


def sent_again(folder: Path, seen: Rows, rows: Rows, **options: Any) -> tuple[JobOrder, Files]:
    """The order of a job on these rows, for a model that was trained on others."""
    order, files = an_order(folder, rows, network(OVERCONFIDENT), dataset_options=options)
    SeenRows.of({"x": seen["x"]}, key=bytes.fromhex(order.model.row_key)).save(folder / "seen_rows.npz")
    return order, {**files, "seen_rows": folder / "seen_rows.npz"}


def part(rows: Rows, *splits: str) -> Rows:
    """The rows of these splits."""
    chosen = np.isin(rows["split"], splits)
    return {name: array[chosen] for name, array in rows.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4"])
def test_rows_sent_again_as_unseen_are_left_out(tmp_path: Path, dtype: str) -> None:
    """A refit's own rows among new ones, in another order and type, neither calibrate nor judge, and are counted."""
    seen, new = part(world(1), "train", "calibration"), part(world(2), "calibration", "guarantee", "test")
    again = {name: np.concatenate([new[name], seen[name][:100]]) for name in ("x", "label")}
    again["split"] = np.concatenate([new["split"], words(calibration=40, guarantee=10, test=50)])
    shuffled = np.random.default_rng(0).permutation(len(again["x"]))
    rows = {name: array[shuffled] for name, array in again.items()} | {"x": again["x"][shuffled].astype(dtype)}
    order, files = sent_again(tmp_path, seen, rows, seen_by_model="no")
    _, dataset, _ = open_job(order, files, tmp_path)
    assert {split: len(dataset.rows(split)) for split in SPLITS if split != "train"} == {
        split: count for split, count in SPLITS.items() if split != "train"
    }
    assert (
        "this model was trained on 40 of 340 calibration rows, 10 of 90 guarantee rows, 50 of 450 test rows (found by "
        "their inputs): they are left out"
    ) in dataset.warnings
    kept = np.concatenate([dataset.inputs["x"][dataset.rows(split)] for split in ("calibration", "test")])
    assert not (kept[:, None] == seen["x"][None, :100]).all(2).any()


def test_the_same_dataset_cannot_calibrate_a_refit_again(tmp_path: Path) -> None:
    """All calibration rows of the job that trained it are its training rows: `rows_seen`, with what would do."""
    rows = world()
    order, files = sent_again(tmp_path, part(rows, "train", "calibration"), rows, seen_by_model="no")
    with pytest.raises(BadDataset, match=r"300 of 300 calibration rows .* 0 calibration rows are left") as error:
        open_job(order, files, tmp_path)
    assert error.value.code == "rows_seen"


def test_pixels_are_compared_as_the_model_reads_them(tmp_path: Path) -> None:
    """Images of bytes are the rows that the same pixels were as floats."""
    pixels = np.random.default_rng(0).integers(0, 256, (900, 8))
    rows = {**world(), "x": pixels.astype(np.uint8)}
    order, files = sent_again(tmp_path, {"x": pixels[:700].astype(np.float32)}, rows)
    with pytest.raises(BadDataset, match="200 of 400 test rows") as error:
        open_job(order, files, tmp_path)
    assert error.value.code == "rows_seen"
