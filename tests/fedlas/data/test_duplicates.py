"""Copies of train rows neither calibrate nor judge; rows that a network has seen are found again in any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.contract.profiles import TensorSpec
from fedlas.data import SPLITS, Dataset, align, load_dataset, save_dataset, without_copies
from fedlas.data import arrays as arrays_module
from fedlas.data import duplicates as module
from fedlas.data.arrays import read_arrays
from fedlas.data.duplicates import MIN_LEFT, SeenRows, copied_rows, without_seen
from fedlas.data.splits import draw_splits
from fedlas.errors import BadDataset
from tests.helpers.refusals import refusal

COUNTS = {"train": 400, "calibration": 200, "guarantee": 0, "test": 200}


def of(rows: NDArray[Any]) -> Dataset:
    """A dataset of these rows (800, D), the train rows first."""
    splits = np.repeat(np.arange(len(SPLITS), dtype=np.int8), list(COUNTS.values()))
    return Dataset({"x": rows}, np.arange(len(rows)) % 2, ["a", "b"], True, splits)


def table(values: int, columns: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, values, (800, columns)).astype(np.float32)


def test_copies_are_left_out_of_the_split_that_has_them() -> None:
    """Test rows that are train rows (100 of 200) are left out: others judge, calibration rows stay, a notice counts."""
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
    """A coarse table in which half of the test rows are copies has more of them than chance explains."""
    rows = table(3, 8)
    rows[600:700] = rows[:100]
    rest, (notice,) = without_copies(of(rows))
    assert 90 < len(rest.rows("test")) < 120
    assert notice.code == "copied_rows"


def test_a_split_of_nothing_but_copies_is_refused() -> None:
    """Nine rows cannot judge."""
    rows = table(1000, 8)
    rows[600:791] = rows[:191]
    with refusal(BadDataset, "rows_seen", "9 test rows are left, at least 10 are needed"):
        without_copies(of(rows))


KEY, OTHER_KEY = b"k" * 16, b"o" * 16
RNG = np.random.default_rng(0)
Json = dict[str, Any]


def data(counts: Json, *, seed: int = 1, **fields: Any) -> Dataset:
    """A dataset of three float32 columns with so many rows in each split."""
    number = sum(counts.values())
    rows = np.random.default_rng(seed).normal(size=(number, 3)).astype(np.float32)
    splits = np.repeat([SPLITS.index(split) for split in counts], list(counts.values())).astype(np.int8)
    return Dataset({"x": rows}, np.arange(number) % 2, ["a", "b"], True, splits, **fields)


def test_the_same_numbers_are_the_same_row() -> None:
    """Order, contiguity and the sign of a zero change nothing, nor does which NaN a gap is written as."""
    rows = RNG.normal(size=(50, 4)).astype(np.float32)
    rows[0, 0], rows[1, 1] = 0.0, np.nan
    seen = SeenRows.of({"x": rows}, key=KEY)
    again = rows.copy()
    again[0, 0] = -0.0
    again.view(np.uint32)[1, 1] = 0xFFC00123
    assert np.isnan(again[1, 1])
    for array in (again, again[::-1], np.asfortranarray(again), np.repeat(again, 2, axis=0)[::2]):
        assert seen.contains({"x": array}).all()
    assert not seen.contains({"x": np.nextafter(rows, np.float32(9))}).any()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64", "float16", ">f4"])
def test_any_type_that_the_model_casts_is_found(dtype: str) -> None:
    """Rows that become one input of the model are one row: bytes of pixels, wide floats, another byte order."""
    spec = TensorSpec(name="pixels", dtype="float32", shape=["N", 8])
    rows = RNG.integers(0, 256, (40, 8))

    def aligned(array: Any) -> Dataset:
        dataset = Dataset({"x": array}, np.arange(40) % 2, ["a", "b"], True, np.zeros(40, np.int8))
        return align(dataset, model_inputs=[spec], num_classes=2, class_names=None)

    seen = SeenRows.of(aligned(rows.astype(np.float32)).inputs, key=KEY)
    assert seen.contains(aligned(rows[RNG.permutation(40)].astype(dtype)).inputs).all()


def test_all_inputs_make_a_row() -> None:
    """A row is seen only where all of its inputs are, each under its own name, in whatever order they are kept."""
    ids, mask = RNG.integers(1, 9, (6, 4)), np.ones((6, 4), np.int64)
    seen = SeenRows.of({"ids": ids, "mask": mask}, key=KEY)
    assert seen.contains({"mask": mask, "ids": ids}).all()
    assert not seen.contains({"ids": ids, "mask": 0 * mask}).any()
    assert not seen.contains({"ids": ids, "mask": mask[:, :3]}).any()
    assert not seen.contains({"ids": mask, "mask": ids}).any()


def test_padding_is_no_part_of_a_row() -> None:
    """Rows of a free length are filled up with zeros to the longest of their file, and stay the same rows."""
    ids = RNG.integers(1, 9, (6, 4))
    seen = SeenRows.of({"ids": ids}, key=KEY)
    assert seen.contains({"ids": np.pad(ids, [(0, 0), (0, 5)])}).all()
    assert not seen.contains({"ids": np.pad(ids, [(0, 0), (1, 0)])}).any()


def test_pieces_and_maps_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large arrays are read in pieces from where they lie, chosen rows alike."""
    dataset = data({"train": 60, "test": 40})
    whole = SeenRows.of(dataset.inputs, np.arange(5, 95, 3), key=KEY)
    save_dataset(dataset, tmp_path / "d.npz")
    monkeypatch.setattr(arrays_module, "_PIECE", 100)
    mapped = load_dataset(tmp_path / "d.npz", mapped_from=1)
    assert isinstance(mapped.inputs["x"], np.memmap)
    assert SeenRows.of(mapped.inputs, np.arange(5, 95, 3), key=KEY).digests.tolist() == whole.digests.tolist()


def test_the_file_tells_nothing_without_the_key(tmp_path: Path) -> None:
    """The file holds eight bytes of each row, sorted; under another key equal rows have nothing in common with it."""
    rows = {"x": RNG.normal(size=(100, 3)).astype(np.float32)}
    SeenRows.of(rows, key=KEY).save(tmp_path / "seen.npz")
    arrays = read_arrays(tmp_path / "seen.npz")
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {"digests": (np.uint64, (100,))}
    assert (np.diff(arrays["digests"].astype(object)) > 0).all()
    assert SeenRows.load(tmp_path / "seen.npz", key=KEY).contains(rows).all()
    assert not SeenRows.load(tmp_path / "seen.npz", key=OTHER_KEY).contains(rows).any()


def test_sets_of_rows_are_united() -> None:
    """Rows that a network has seen in either of two trainings are found after the second, each row held once."""
    first, second = {"x": np.eye(4)[:3]}, {"x": np.eye(4)[2:]}
    both = SeenRows.of(first, key=KEY).union(SeenRows.of(second, key=KEY))
    assert len(both.digests) == 4
    assert both.contains({"x": np.eye(4)}).all()
    with pytest.raises(ValueError, match="same key"):
        both.union(SeenRows(OTHER_KEY))


def test_seen_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """Rows of the splits that choose, promise and judge go; train rows stay, and count as seen from now on."""
    counts = {"train": 50, "calibration": 300, "guarantee": 20, "test": 400}
    dataset = data(counts, seen_by_model="no", warnings=["a warning"])
    chosen = np.concatenate([dataset.rows(split)[: counts[split] // 10] for split in SPLITS])
    left = without_seen(dataset, SeenRows.of(dataset.inputs, chosen, key=KEY), scratch=tmp_path)
    assert left.profile()["splits"] == {"train": 50, "calibration": 270, "guarantee": 18, "test": 360}
    assert not np.isin(chosen[5:], np.concatenate([left.rows(split) for split in SPLITS])).any()
    assert left.seen_by_model == "train_split"
    assert left.warnings == [
        "a warning",
        "this model was trained on 5 of 50 train rows: seen_by_model=train_split",
        "this model was trained on 30 of 300 calibration rows, 2 of 20 guarantee rows, 40 of 400 test rows (found by "
        "their inputs): they are left out",
    ]


def test_a_guarantee_split_may_become_empty(tmp_path: Path) -> None:
    """Without guarantee rows nothing is promised, which is reported and is no reason to stop."""
    dataset = data({"calibration": 300, "guarantee": 20, "test": 300})
    left = without_seen(dataset, SeenRows.of(dataset.inputs, dataset.rows("guarantee"), key=KEY), scratch=tmp_path)
    assert (len(left.rows("guarantee")), left.seen_by_model) == (0, "unknown")
    assert left.warnings[-1].endswith("they are left out; no guarantee row is left, so nothing is promised")


@pytest.mark.parametrize(("split", "other"), [("calibration", "test"), ("test", "calibration")])
def test_too_few_unseen_rows_stop_a_job(tmp_path: Path, split: str, other: str) -> None:
    """Fewer than 200 rows of a split that has lost some neither choose nor judge; one without loss may be small."""
    dataset = data({split: MIN_LEFT + 5, other: 50, "train": 10})
    for lost in (5, 6):
        seen = SeenRows.of(dataset.inputs, dataset.rows(split)[:lost], key=KEY)
        if lost == 5:
            assert len(without_seen(dataset, seen, scratch=tmp_path).rows(split)) == MIN_LEFT
            continue
        words = rf"6 of 205 {split} rows.* 199 {split} rows are left, at least 200"
        with refusal(BadDataset, "rows_seen", words):
            without_seen(dataset, seen, scratch=tmp_path)


def test_nothing_seen_changes_nothing(tmp_path: Path) -> None:
    """A dataset of rows that are all new, however few, is handed on as it is."""
    dataset = data({"calibration": 12, "test": 12})
    others = data({"train": 500}, seed=2)
    assert without_seen(dataset, SeenRows(KEY), scratch=tmp_path) is dataset
    assert without_seen(dataset, SeenRows.of(others.inputs, key=KEY), scratch=tmp_path) is dataset


def test_what_is_left_of_large_arrays_lies_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split with gaps would be copied into memory whenever it is read, so that the rest is written once."""
    monkeypatch.setattr(module, "MEMORY_BYTES", 100)
    dataset = data({"calibration": 300, "test": 300}, seen_by_model="no")
    gone = dataset.rows("test")[::7]
    left = without_seen(dataset, SeenRows.of(dataset.inputs, gone, key=KEY), scratch=tmp_path)
    inputs, targets = left.select("test")
    assert np.shares_memory(inputs["x"], left.inputs["x"])
    stayed = np.setdiff1d(dataset.rows("test"), gone)
    assert (inputs["x"] == dataset.inputs["x"][stayed]).all()
    assert (targets == dataset.targets[stayed]).all()
    assert left.in_file(left.rows("test")).tolist() == stayed.tolist()


def test_copies_are_kept_in_one_split() -> None:
    """Each row three times is drawn as a third of the rows; codes that repeat by nature, with other labels, are not."""
    rng = np.random.default_rng(0)
    rows, labels = np.repeat(rng.normal(size=(300, 4)), 3, axis=0), np.repeat(rng.integers(0, 2, 300), 3)
    copies = copied_rows({"x": rows}, labels)
    assert copies is not None
    splits = draw_splits(labels, groups=copies)
    assert (splits.reshape(300, 3) == splits[::3, None]).all()
    assert copied_rows({"x": rng.integers(0, 3, (900, 4))}, rng.integers(0, 2, 900)) is None
    assert copied_rows({"x": rng.integers(0, 5, (900, 4))}, rng.integers(0, 2, 900)) is None


def test_few_scores_that_a_sure_model_repeats_are_no_copies() -> None:
    """A forest gives many rows one answer: there most of the rows must have a twin."""
    scores = np.random.default_rng(0).random((900, 2))
    scores[:90] = (1, 0)
    assert copied_rows({"probabilities": scores}, np.zeros(900, np.int64), scores=True) is None
