"""Good datasets: what comes out of npz and csv files, how splits are drawn, and the prepared copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlas.data import SPLITS, ReadingOptions, load_dataset, read_dataset, save_dataset
from fedlas.errors import BadDataset
from tests.helpers.refusals import refusal

LABELS = np.arange(200) % 4


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def csv(path: Path, text: str) -> Path:
    (path / "data.csv").write_text(text, encoding="utf-8")
    return path / "data.csv"


def rows(header: str, line: str, count: int = 200) -> str:
    """A csv text; `line` may use i and the word of its class (cat, dog, emu)."""
    words = ("cat", "dog", "emu")
    return header + "\n" + "".join(line.format(i=i, word=words[i % 3]) + "\n" for i in range(count))


def test_an_npz_keeps_its_arrays(tmp_path: Path) -> None:
    """Pixels stay bytes, labels become int64 indices, and every role array is kept out of the inputs."""
    images = np.random.default_rng(0).integers(0, 256, (200, 1, 8, 8), dtype=np.uint8)
    dataset = read_dataset(npz(tmp_path, images=images, y=LABELS.astype(np.int16), id=np.arange(200)))
    assert list(dataset.inputs) == ["images"]
    np.testing.assert_array_equal(dataset.inputs["images"], images)
    assert dataset.inputs["images"].dtype == np.uint8
    np.testing.assert_array_equal(dataset.targets, LABELS)
    assert dataset.targets.dtype == np.int64
    assert (dataset.class_names, dataset.class_names_given) == (["0", "1", "2", "3"], False)
    assert dataset.roles == {"label": "y", "id": "id"}


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_every_layout_of_an_array_is_read(tmp_path: Path, writer: Any) -> None:
    """Compressed or not, Fortran order, big-endian and sliced arrays give the same numbers."""
    values = np.random.default_rng(0).normal(size=(200, 3, 4))
    arrays = {
        "fortran": np.asfortranarray(values),
        "big": values.astype(">f4"),
        "half": values.astype(np.float16),
        "strided": np.repeat(values, 2, axis=0)[::2],
        "flag": values > 0,
    }
    writer(tmp_path / "a.npz", label=LABELS, **arrays)
    dataset = read_dataset(tmp_path / "a.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(dataset.inputs[name], array)
        assert dataset.inputs[name].dtype.isnative


def test_a_csv_becomes_one_input(tmp_path: Path) -> None:
    """Numeric columns stand side by side in file order, text labels are numbered by sorted name."""
    text = rows("b,a,flag,label,group", "{i},{i}.5,true,{word},g{i}")
    dataset = read_dataset(csv(tmp_path, text), ReadingOptions(seen_by_model="no"))
    np.testing.assert_array_equal(dataset.inputs["inputs"][:2], [[0, 0.5, 1], [1, 1.5, 1]])
    assert dataset.class_names == ["cat", "dog", "emu"]
    assert dataset.class_names_given
    np.testing.assert_array_equal(dataset.targets, np.arange(200) % 3)
    assert dataset.groups is not None
    assert len(np.unique(dataset.groups)) == 200
    assert dataset.format == "csv"


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_are_understood(tmp_path: Path, mark: str) -> None:
    """Semicolons and tabs separate columns where the header has no comma, and a byte-order mark is no name."""
    text = "\ufeff" + rows("label,x", "{word},{i}").replace(",", mark)
    assert read_dataset(csv(tmp_path, text)).roles == {"label": "label"}


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    """A csv of integers is an integer input; one float column makes it a float input."""
    assert read_dataset(csv(tmp_path, rows("a,label", "{i},{word}"))).inputs["inputs"].dtype == np.int64
    assert read_dataset(csv(tmp_path, rows("a,label", "{i}.5,{word}"))).inputs["inputs"].dtype == np.float64


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(np.float64), LABELS.astype(np.uint8), LABELS.astype(str), LABELS.astype("S1"), LABELS[:, None]],
    ids=["float", "uint8", "text", "bytes", "column"],
)
def test_labels_of_any_kind_are_indices(tmp_path: Path, labels: np.ndarray) -> None:
    """Whole numbers are class indices, whatever type they were stored in."""
    dataset = read_dataset(npz(tmp_path, x=np.zeros((200, 2)), label=labels))
    np.testing.assert_array_equal(dataset.targets, LABELS)
    assert not dataset.class_names_given


def test_indices_are_not_sorted_as_text(tmp_path: Path) -> None:
    """Labels "2" and "10" mean the classes 2 and 10."""
    dataset = read_dataset(npz(tmp_path, x=np.zeros((200, 2)), label=np.where(LABELS % 2 == 0, "2", "10")))
    assert sorted(set(dataset.targets.tolist())) == [2, 10]


def test_bools_are_two_classes(tmp_path: Path) -> None:
    """False is class 0 and true is class 1, in csv and npz."""
    text = rows("x,label", "{i},true", 100) + rows("x,label", "{i},false", 100).split("\n", 1)[1]
    first = read_dataset(csv(tmp_path, text))
    second = read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS > 1))
    np.testing.assert_array_equal(first.targets, np.arange(200) < 100)
    np.testing.assert_array_equal(second.targets, LABELS > 1)


def test_class_names_name_the_classes(tmp_path: Path) -> None:
    """An array `class_names` numbers text labels in its own order and names integer labels."""
    names = np.array(["pear", "apple", "fig", "plum"])
    for labels in (LABELS, names[LABELS]):
        dataset = read_dataset(npz(tmp_path, x=np.zeros(200), label=labels, class_names=names))
        np.testing.assert_array_equal(dataset.targets, LABELS)
        assert (dataset.class_names, dataset.class_names_given) == (names.tolist(), True)


def test_roles_can_be_renamed(tmp_path: Path) -> None:
    """`roles` says which column is the label; the usual name is then an ordinary column."""
    text = rows("diagnosis,y,hospital,site", "{word},{i},h{i},s")
    roles = {"label": "diagnosis", "group": "hospital", "slices": ["site"]}
    dataset = read_dataset(csv(tmp_path, text), ReadingOptions(roles=roles))
    assert dataset.roles == roles
    np.testing.assert_array_equal(dataset.inputs["inputs"][:, 0], np.arange(200))


def test_a_second_label_name_is_an_input_with_a_warning(tmp_path: Path) -> None:
    """With `label` and `y`, `label` is the label, `y` an input, and a warning says so."""
    dataset = read_dataset(npz(tmp_path, x=np.zeros(200), y=np.arange(200), label=LABELS))
    assert list(dataset.inputs) == ["x", "y"]
    assert any("'y'" in warning for warning in dataset.warnings)


def test_weights_and_ids_are_kept(tmp_path: Path) -> None:
    """Weights and row names stay out of the inputs, row by row; names that differ have no warning."""
    weights, ids = np.linspace(0, 2, 200), np.array([f"row {i}" for i in range(200)])
    dataset = read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS, weight=weights, id=ids))
    assert list(dataset.inputs) == ["x"]
    np.testing.assert_array_equal(dataset.weights, weights)
    np.testing.assert_array_equal(dataset.ids, ids)
    assert not any("id" in warning.split() for warning in dataset.warnings)


@pytest.mark.parametrize("kind", [np.int64, np.str_])
def test_a_row_name_that_stands_twice_is_said(tmp_path: Path, kind: Any) -> None:
    """Two rows of the same name are a warning with an example, whatever the names are made of."""
    ids = np.arange(200).astype(kind)
    ids[150] = ids[7]
    dataset = read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS, id=ids))
    assert any("for example 7 in rows 7 and 150" in warning for warning in dataset.warnings)


@pytest.mark.parametrize("form", ["numbers", "ISO", "zones", "datetime64", "numerals"])
def test_times_of_any_form_order_the_rows(tmp_path: Path, form: str) -> None:
    """The latest fifth tests, whether times are numbers, text with or without zones, or timestamps."""
    hours = np.random.default_rng(0).permutation(200)
    moments = np.datetime64("2024-02-28T00:00:00") + hours.astype("timedelta64[h]")
    times = {
        "numbers": hours / 7,
        "ISO": moments.astype(str),
        "zones": np.array([f"{moment + 3 * i}{zone}" for i, (moment, zone) in _with_zones(moments)]),
        "datetime64": moments,
        "numerals": hours.astype(str),
    }[form]
    dataset = read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS, time=times))
    np.testing.assert_array_equal(dataset.splits == SPLITS.index("test"), hours >= 160)


def _with_zones(moments: np.ndarray) -> list[tuple[np.timedelta64, tuple[np.datetime64, str]]]:
    """Moments in mixed zones, each in one of two: three times one hour is +03:00."""
    hour = np.timedelta64(1, "h")
    return [((i % 2) * hour, (moment, ("Z", "+03:00")[i % 2])) for i, moment in enumerate(moments)]


def test_missing_numbers_can_be_let_through(tmp_path: Path) -> None:
    """With missing=nan an empty cell is NaN, in whole-number columns too."""
    dataset = read_dataset(csv(tmp_path, rows("a,label", "{i},{word}") + ",cat\n"), ReadingOptions(missing="nan"))
    assert np.isnan(dataset.inputs["inputs"][-1, 0])


def test_given_splits_are_kept(tmp_path: Path) -> None:
    """The words of the split column are kept row by row; only `train` counts as seen by the model."""
    words = np.array(SPLITS)[np.arange(200) % 4]
    dataset = read_dataset(npz(tmp_path, x=np.arange(200), label=LABELS // 2, split=words))
    assert dataset.seen_by_model == "train_split"
    np.testing.assert_array_equal(dataset.rows("guarantee"), np.arange(2, 200, 4))
    inputs, targets = dataset.select("test")
    np.testing.assert_array_equal(inputs["x"], np.arange(3, 200, 4))
    np.testing.assert_array_equal(targets, (LABELS // 2)[3::4])


def test_absent_splits_are_said(tmp_path: Path) -> None:
    """Without calibration rows the dataset is readable, warns, and refuses when the split is required."""
    words = np.array(["train", "test"])[np.arange(200) % 2]
    dataset = read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS // 2, split=words))
    assert any("calibration" in warning for warning in dataset.warnings)
    with pytest.raises(ValueError, match="calibration"):
        dataset.require("test", "calibration")


def test_drawn_splits_are_stratified(tmp_path: Path) -> None:
    """Every class is spread 50/20/10/20 to within a row, by a seed that repeats; the provenance is unknown."""
    labels = np.repeat([0, 1, 2], [500, 60, 40])
    path = npz(tmp_path, x=np.zeros(600), label=labels)
    dataset, again, other = (read_dataset(path, ReadingOptions(split_seed=seed)) for seed in (1, 1, 2))
    for k, size in enumerate((500, 60, 40)):
        counts = np.bincount(dataset.splits[labels == k], minlength=4)
        assert np.abs(counts - size * np.array([0.5, 0.2, 0.1, 0.2])).max() <= 1
    assert dataset.profile()["splits"] == {"train": 300, "calibration": 120, "guarantee": 60, "test": 120}
    np.testing.assert_array_equal(dataset.splits, again.splits)
    assert (dataset.splits != other.splits).any()
    assert dataset.seen_by_model == "unknown"
    assert any("seen_by_model=no" in warning for warning in dataset.warnings)


def test_shares_of_drawn_splits(tmp_path: Path) -> None:
    """Rows, groups and times are dealt out by the shares that are asked for; a split without a share has no row."""
    shares = {"calibration": 0.3, "guarantee": 0.25, "test": 0.45}
    labels = np.repeat([0, 1, 2], [500, 60, 40])
    columns = {"x": np.zeros(600), "label": labels}
    by_class = read_dataset(npz(tmp_path, **columns), ReadingOptions(split_shares=shares))
    for k, size in enumerate((500, 60, 40)):
        counts = np.bincount(by_class.splits[labels == k], minlength=4)
        assert np.abs(counts - size * np.array([0, 0.3, 0.25, 0.45])).max() <= 2
    by_time = read_dataset(npz(tmp_path, **columns, time=np.arange(600)), ReadingOptions(split_shares=shares))
    np.testing.assert_array_equal(by_time.splits, np.repeat([1, 2, 3], [180, 150, 270]))
    groups = np.random.default_rng(0).integers(0, 100, 600)
    by_group = read_dataset(npz(tmp_path, **columns, group=groups), ReadingOptions(split_shares=shares))
    np.testing.assert_allclose(np.bincount(by_group.splits, minlength=4) / 600, [0, 0.3, 0.25, 0.45], atol=0.02)
    assert all(len(np.unique(by_group.splits[groups == group])) == 1 for group in np.unique(groups))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"calibration": 0.5, "test": 0.4}, "sum to 0.9"),
        ({"calibration": 0.5, "test": 0.5, "dev": 0.0}, "'dev' is no split"),
        ({"calibration": 1.2, "test": -0.2}, "calibration must lie in 0..1"),
        ({"calibration": float("nan"), "test": 1.0}, "calibration must lie in 0..1"),
        ({"train": 0.5, "calibration": 0.5}, "test must be at least 0.01"),
    ],
)
def test_bad_shares_are_refused(tmp_path: Path, shares: dict[str, float], said: str) -> None:
    """Shares that are refused are named with the rule that they break."""
    with refusal(BadDataset, "bad_split_shares", said):
        read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS), ReadingOptions(split_shares=shares))


def test_shares_and_given_splits_contradict_each_other(tmp_path: Path) -> None:
    """Where a column gives the splits none is drawn, so shares are refused and the column is named."""
    path = npz(tmp_path, x=np.zeros(200), label=LABELS // 2, split=np.array(SPLITS)[np.arange(200) % 4])
    with pytest.raises(BadDataset, match="'split' gives the split of every row"):
        read_dataset(path, ReadingOptions(split_shares={"calibration": 0.5, "test": 0.5}))


def test_time_and_groups_together(tmp_path: Path) -> None:
    """Whole groups go in order of their first row."""
    groups = np.arange(200) % 50
    dataset = read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS, group=groups, time=np.arange(200)))
    np.testing.assert_array_equal(dataset.splits[:50], np.repeat([0, 1, 2, 3], [25, 10, 5, 10]))
    np.testing.assert_array_equal(dataset.splits, np.tile(dataset.splits[:50], 4))


def test_a_claim_about_a_drawn_split_is_not_believed(tmp_path: Path) -> None:
    """No model was trained on a split that did not exist, so the provenance is unknown and says why."""
    dataset = read_dataset(npz(tmp_path, x=np.zeros(200), label=LABELS), ReadingOptions(seen_by_model="train_split"))
    assert dataset.seen_by_model == "unknown"
    assert any("train_split" in warning for warning in dataset.warnings)


def test_the_prepared_copy_is_the_dataset(tmp_path: Path) -> None:
    """A saved dataset comes back equal, under whatever name, without pickles, sorted by split."""
    words = np.array(SPLITS)[np.arange(200) % 4]
    dataset = read_dataset(
        npz(tmp_path, **{"a/b": np.zeros((200, 2), np.float16), "c": LABELS}, y=LABELS // 2, split=words, group=words)
    )
    save_dataset(dataset, tmp_path / "prepared")
    copy = load_dataset(tmp_path / "prepared")
    assert copy.profile() == dataset.profile()
    assert copy.groups is not None
    rows = copy.in_file_order()
    for name, array in dataset.inputs.items():
        np.testing.assert_array_equal(copy.inputs[name][rows], array)
        assert copy.inputs[name].dtype == array.dtype
    np.testing.assert_array_equal(copy.targets[rows], dataset.targets)
    np.testing.assert_array_equal(copy.splits[rows], dataset.splits)
    np.testing.assert_array_equal(copy.groups[rows], dataset.groups)  # type: ignore[arg-type]
    for split in SPLITS:
        np.testing.assert_array_equal(copy.in_file(copy.rows(split)), dataset.rows(split))
    assert (copy.format, copy.class_names_given, copy.splits.dtype) == ("npz", False, np.int8)


def test_the_profile_counts_by_name(tmp_path: Path) -> None:
    """Shapes have N first, and classes are counted by name."""
    profile = read_dataset(npz(tmp_path, x=np.zeros((200, 3), np.float32), label=LABELS)).profile()
    assert profile["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 3]}]
    assert profile["class_counts"] == {"0": 50, "1": 50, "2": 50, "3": 50}
    assert (profile["num_samples"], profile["num_classes"]) == (200, 4)


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    """A csv called .npz and an npz called .csv are read for what they are."""
    csv(tmp_path, rows("x,label", "{i},{word}")).rename(tmp_path / "table.npz")
    npz(tmp_path, x=np.zeros(200), label=LABELS).rename(tmp_path / "arrays.csv")
    assert read_dataset(tmp_path / "table.npz").format == "csv"
    assert read_dataset(tmp_path / "arrays.csv").format == "npz"
