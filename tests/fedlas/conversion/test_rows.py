"""Rows of any kind become a dataset file that reads back the same; paths are taken as they are, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fedlas.conversion import ConversionError, dataset_file, example_of, model_file
from fedlas.conversion.columns import LABEL_NAMES, ROLES, SPLITS
from fedlas.data import SPLITS as DATA_SPLITS
from fedlas.data import ReadingOptions, read_dataset, roles
from tests.helpers.refusals import refusal

RNG = np.random.default_rng(0)
X, Y = RNG.random((60, 4)).astype(np.float32), np.arange(60) % 3
FRAME = pd.DataFrame(X, columns=["a", "b", "c", "d"]).assign(kind=np.array(["u", "v", "w"])[Y])
PARTS = {"train": slice(0, 20), "calibration": slice(20, 40), "test": slice(40, 60)}


def read(data: Any, folder: Path, **options: Any) -> Any:
    """The dataset that the file of `data` is."""
    file = dataset_file(data, folder=folder, **options)
    return read_dataset(file.path, ReadingOptions(roles=file.roles, seen_by_model=file.seen_by_model))


class Items(Dataset[Any]):
    """A dataset whose items are mappings."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return {"rows": torch.from_numpy(X[index]), "labels": int(Y[index])}


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.tolist(), Y.tolist()),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        {"rows": X, "y": Y},
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=7),
        DataLoader(Items(), batch_size=16),
        FRAME.assign(label=Y).drop(columns="kind"),
        (FRAME.drop(columns="kind"), pd.Series(Y)),
    ],
    ids=["pair", "lists", "tensors", "mapping", "dataset", "loader", "items", "frame", "frame and labels"],
)
def test_every_kind_of_rows_is_the_same_dataset(data: Any, tmp_path: Path) -> None:
    """Numbers and classes are those that went in; the example is a batch of the inputs."""
    dataset = read(data, tmp_path)
    (inputs,) = dataset.inputs.values()
    np.testing.assert_array_equal(inputs.astype(np.float32), X)
    np.testing.assert_array_equal(dataset.targets, Y)
    example = example_of(data)
    rows = example.to_numpy() if isinstance(example, pd.DataFrame) else next(iter(example.values()))
    np.testing.assert_array_equal(rows.astype(np.float32), X[: len(rows)])
    assert 2 <= len(rows) <= 32


@pytest.mark.parametrize("kind", ["arrays", "frames", "loaders"])
def test_parts_by_name_are_the_splits(kind: str, tmp_path: Path) -> None:
    """Rows stay in the split that they are given for, and given splits mean that train rows were seen."""
    loader = {
        "arrays": lambda part: (X[part], Y[part]),
        "frames": lambda part: FRAME[part],
        "loaders": lambda part: DataLoader(TensorDataset(torch.from_numpy(X[part]), torch.from_numpy(Y[part])), 8),
    }[kind]
    given = {"label": "kind"} if kind == "frames" else {}
    dataset = read({name: loader(part) for name, part in PARTS.items()}, tmp_path, roles=given)
    for name, part in PARTS.items():
        inputs, targets = dataset.select(name)
        np.testing.assert_array_equal(next(iter(inputs.values())).astype(np.float32), X[part])
        np.testing.assert_array_equal(targets, Y[part])
    assert dataset.seen_by_model == "train_split"
    assert dataset.class_names == (["u", "v", "w"] if kind == "frames" else ["0", "1", "2"])


def test_a_dataset_of_ours_keeps_everything(tmp_path: Path) -> None:
    """Splits, groups, weights and class names are those of the dataset."""
    columns = {"x": X, "label": np.array(["u", "v", "w"])[Y], "group": np.arange(60) // 2, "weight": np.ones(60)}
    first = read(columns, tmp_path / "a", seen_by_model="no")
    again = read(first, tmp_path / "b")
    for field in ("targets", "splits", "groups", "weights"):
        np.testing.assert_array_equal(getattr(again, field), getattr(first, field))
    assert (again.class_names, again.seen_by_model) == (["u", "v", "w"], "no")


@pytest.mark.parametrize("labels", [Y.astype(np.float64), Y[:, None].astype(np.float32), np.eye(3)[Y]])
def test_labels_that_are_whole_floats_or_one_hot_are_taken_with_a_note(labels: Any, tmp_path: Path) -> None:
    """Both mean classes, and the note says what was done."""
    file = dataset_file((X, labels), folder=tmp_path)
    np.testing.assert_array_equal(read_dataset(file.path).targets, Y)
    assert any("labels came" in note for note in file.notes)


def test_the_example_has_no_label_whatever_it_is_called(tmp_path: Path) -> None:
    """Roles are known to the example as to the file; an array may be called `file`."""
    arrays = {"file": X, "diagnosis": Y}
    assert list(example_of(arrays, roles={"label": "diagnosis"})) == ["file"]
    assert list(example_of(FRAME, roles={"label": "kind"}).columns) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(read(arrays, tmp_path, roles={"label": "diagnosis"}).inputs["file"], X)


def test_a_column_may_be_called_as_an_attribute_of_ours(tmp_path: Path) -> None:
    """`seen_by_model` of a frame is a column."""
    frame = FRAME.drop(columns="kind").assign(label=Y, seen_by_model=0)
    assert dataset_file(frame, folder=tmp_path).seen_by_model is None


def test_classes_that_are_words_of_digits_are_matched_by_name(tmp_path: Path) -> None:
    """Sorted as words, 10 comes before 2."""
    file = dataset_file((X, np.array(["1", "10", "2"])[Y]), folder=tmp_path, class_names=["1", "10", "2"])
    np.testing.assert_array_equal(read_dataset(file.path).targets, Y)


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_labels_that_are_values_of_classes_become_their_indices(dtype: Any, tmp_path: Path) -> None:
    """An estimator whose classes are 3, 5 and 9 has labels that are its classes, not indices."""
    file = dataset_file((X, np.array([3, 5, 9], dtype)[Y]), folder=tmp_path, class_names=["3", "5", "9"])
    np.testing.assert_array_equal(read_dataset(file.path).targets, Y)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ((X, Y + 0.5), "float_labels", "the label is 0.5 in row 0"),
        ((X, np.where(Y == 2, np.nan, Y)), "float_labels", "the label is nan in row 2"),
        ((X, RNG.random((60, 3))), "bad_labels", "not one-hot"),
        ((X, Y[:50]), "length_mismatch", "'x' 60, 'label' 50"),
        ((X[:0], Y[:0]), "empty", "no rows"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "ragged", "different lengths"),
        (FRAME[:0], "empty", "0 rows and 5 columns"),
        (FRAME.assign(label=Y), "text_column", "'kind' holds"),
        (FRAME.assign(label=Y, kind=pd.Categorical(FRAME["kind"])), "text_column", "holds categories ('u' in row 0)"),
        (FRAME[["kind"]].rename(columns={"kind": "label"}), "no_inputs", "nothing but label"),
        (FRAME.drop(columns="kind").assign(label=[None, *Y[1:]]), "missing_value", "'label' has no value in row 0"),
        (DataLoader(TensorDataset(torch.from_numpy(X[:0]), torch.from_numpy(Y[:0]))), "empty", "no batch"),
        ({"train": (X, Y), "test": (X[:, :2], Y)}, "parts_differ", "train (60, 4), test (60, 2)"),
        ({"train": (X, Y), "test": None, "calibration": (X[:0], Y[:0])}, "empty", "the calibration part"),
        (3.0, "unknown_data", "this is a builtins.float"),
        ({"x": np.array([object()] * 3), "y": Y[:3]}, "not_numbers", "Python objects (object)"),
    ],
)
def test_rows_that_cannot_be_written_are_a_sentence(data: Any, code: str, words: str, tmp_path: Path) -> None:
    """Each has a code, and says what was found and where."""
    with refusal(ConversionError, code) as raised:
        dataset_file(data, folder=tmp_path)
    assert words in raised.value.message


def test_roles_that_name_nothing_are_refused(tmp_path: Path) -> None:
    """The sentence shows what there is."""
    with pytest.raises(ConversionError, match=r"names 'z', but there are a, b, c, d, kind"):
        dataset_file(FRAME, folder=tmp_path, roles={"label": "z"})


def test_words_are_those_of_the_library() -> None:
    """Splits, roles and names of labels are written twice, since a client may have no Arrow."""
    assert (SPLITS, ROLES, LABEL_NAMES) == (DATA_SPLITS, roles.ROLES, roles.LABEL_NAMES)


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """The caller's options go with the path."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")
    model = model_file(str(path), folder=tmp_path, features="pooled", class_names=["a", "b"])
    assert (model.path, model.options, model.class_names) == (path, {"features": "pooled"}, ["a", "b"])
    rows = dataset_file(path, folder=tmp_path, roles={"label": "y"}, seen_by_model="no")
    assert (rows.path, rows.roles, rows.seen_by_model) == (path, {"label": "y"}, "no")
    assert example_of(path) is None


@pytest.mark.parametrize(
    ("name", "code"), [("missing.npz", "no_such_file"), ("folder", "is_directory"), ("empty.npz", "empty_file")]
)
def test_a_path_that_is_no_file_is_a_sentence(name: str, code: str, tmp_path: Path) -> None:
    """The sentence names the path and what is there."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.npz").touch()
    for take in (model_file, dataset_file):
        with refusal(ConversionError, code, name):
            take(tmp_path / name, folder=tmp_path)  # type: ignore[operator]


def test_nothing_is_loaded_for_a_file(tmp_path: Path) -> None:
    """A file loads neither PyTorch nor NumPy, so a client of files needs none."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")
    code = (
        "import sys; from pathlib import Path; from fedlas.conversion import *; "
        f"model_file({str(path)!r}, folder=Path('.')); dataset_file({str(path)!r}, folder=Path('.')); "
        "print({'torch', 'numpy', 'sklearn', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
