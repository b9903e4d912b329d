"""Rows that are only to be predicted: no labels, no splits, and no row too broken to be kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedlas.contract.profiles import TensorSpec
from fedlas.data import ReadingOptions, align, load_dataset, read_dataset, save_dataset
from fedlas.data.dataset import Dataset
from fedlas.errors import BadDataset
from tests.corpus.images import Entry, image, photo, zip_of
from tests.helpers.refusals import refusal

ROWS = np.arange(12.0).reshape(4, 3)
ABSENT = {"num_classes", "class_names", "class_counts", "splits", "seen_by_model"}


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def csv(**columns: Any) -> bytes:
    lines = [",".join(columns), *(",".join(map(str, cells)) for cells in zip(*columns.values(), strict=True))]
    return ("\n".join(lines) + "\n").encode()


def read(folder: Path, content: bytes, **options: Any) -> Dataset:
    path = folder / "upload"
    path.write_bytes(content)
    return read_dataset(path, ReadingOptions(**options))


def codes(dataset: Dataset) -> list[str]:
    return [notice.code for notice in dataset.adjustments]


A, B = ROWS[:, 0].tolist(), ROWS[:, 1].tolist()


@pytest.mark.parametrize("purpose", [None, "predict"])
@pytest.mark.parametrize(
    "content", [npz(x=ROWS[:, :2]), csv(a=A, b=B), parquet(a=A, b=B)], ids=["npz", "csv", "parquet"]
)
def test_without_a_label_rows_can_be_predicted(tmp_path: Path, content: bytes, purpose: str | None) -> None:
    """Four rows are too few for any split: their numbers are inputs, and the record has neither classes nor splits."""
    dataset = read(tmp_path, content, purpose=purpose)
    assert len(dataset) == 4
    (values,) = dataset.inputs.values()
    np.testing.assert_array_equal(values, ROWS[:, :2])
    profile = dataset.profile()
    assert (profile["labelled"], profile["num_samples"], profile["roles"]) == (False, 4, {})
    assert not ABSENT & set(profile)
    assert codes(dataset) == (["no_label"] if purpose is None else [])
    assert dataset.warnings == []


def test_a_fit_needs_a_label(tmp_path: Path) -> None:
    """With purpose=fit the missing label is an error, which names the columns and the other purpose."""
    with refusal(BadDataset, "no_label", r"no label among a, b;.*purpose=predict"):
        read(tmp_path, csv(a=A, b=B), purpose="fit")
    with refusal(BadDataset, "one_class", r"all labels.*purpose=predict"):
        read(tmp_path, csv(a=A, label=[1] * 4))


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
def test_labels_are_passed_over(tmp_path: Path, kind: str) -> None:
    """A label, a split and a weight that are there become no inputs and are not judged; the notice names them."""
    make = {"npz": npz, "csv": csv, "parquet": parquet}[kind]
    content = make(a=np.array(A), label=np.array(["", "x", "x", "x"]), split=np.array(["dev"] * 4), w=np.full(4, -1))
    dataset = read(tmp_path, content, purpose="predict", roles={"weight": "w"}, seen_by_model="no")
    (values,) = dataset.inputs.values()
    assert values.reshape(-1).tolist() == A
    assert dataset.roles == {"label": "label", "split": "split", "weight": "w"}
    assert codes(dataset) == ["roles_ignored", "options_ignored"]
    assert "label (label), split (split), weight (w)" in dataset.adjustments[0].message
    assert (len(dataset.targets), dataset.class_names, len(dataset.splits), dataset.weights) == (0, [], 0, None)


def test_the_prepared_copy_holds_what_is_there(tmp_path: Path) -> None:
    """Inputs, in the file's order, and names; no targets, splits or numbers of rows; and it comes back equal."""
    ids = np.array(["d", "c", "b", "a"])
    dataset = read(tmp_path, npz(x=ROWS, label=np.arange(4), id=ids), purpose="predict", missing="nan")
    save_dataset(dataset, tmp_path / "prepared.npz")
    with np.load(tmp_path / "prepared.npz") as archive:
        assert set(archive) == {"meta", "input_0", "ids"}
    copy = load_dataset(tmp_path / "prepared.npz")
    np.testing.assert_array_equal(copy.inputs["x"], ROWS)
    assert copy.ids is not None
    assert copy.ids.tolist() == ids.tolist()
    assert (len(copy), copy.labelled, copy.file_rows, copy.reading) == (4, False, None, dataset.reading)


def test_numbers_that_are_none_are_kept(tmp_path: Path) -> None:
    """NaN and infinity reject no dataset without labels; a warning counts the rows and names the first cell."""
    rows = ROWS.copy()
    rows[1, 2], rows[3] = np.nan, np.inf
    dataset = read(tmp_path, npz(x=rows))
    np.testing.assert_array_equal(dataset.inputs["x"], rows)
    (warning,) = dataset.warnings
    assert warning.startswith("rows with numbers that are not finite: 2; 'x' is empty or NaN in row 1, position [2]")
    (warning,) = read(tmp_path, npz(x=rows), missing="nan").warnings
    assert warning.startswith("rows with numbers that are not finite: 1;")
    (warning,) = read(tmp_path, csv(a=["1", "", "3"], b=[1, 2, 3])).warnings
    assert "'a' is empty or NaN in row 1 (counted from 0)" in warning


def test_images_need_no_folders(tmp_path: Path) -> None:
    """Flat images are rows under their own names; of a zip of class folders too, where they are only predicted."""
    flat = zip_of([Entry(f"{name}.png".encode(), image(photo(4, 4, seed=i))) for i, name in enumerate("ba")])
    dataset = read(tmp_path, flat)
    assert (dataset.labelled, dataset.roles, dataset.class_names) == (False, {"id": "file_name"}, [])
    assert dataset.ids is not None
    assert dataset.ids.tolist() == [b"b.png", b"a.png"]
    assert [*dataset.inputs["images"]] == [image(photo(4, 4, seed=i)) for i in range(2)]
    with refusal(BadDataset, "bad_layout", "class folders"):
        read(tmp_path, flat, purpose="fit")
    mixed = zip_of([Entry(name, image(photo())) for name in (b"cat/1.png", b"2.png", b"a/b/3.png")])
    found = read(tmp_path, mixed, purpose="predict")
    assert found.ids is not None
    assert found.ids.tolist() == [b"cat/1.png", b"2.png", b"a/b/3.png"]
    metadata = Entry(b"metadata.csv", b"file_name,id,age\n2.png,007,1\n1.png,013,2\n")
    named = read(tmp_path, zip_of([*(Entry(name, image(photo())) for name in (b"1.png", b"2.png")), metadata]))
    assert (named.roles, named.ids is not None and named.ids.tolist()) == ({"id": "id"}, ["013", "007"])


def test_broken_images_are_kept(tmp_path: Path) -> None:
    """Files that are no image stay rows, and a warning counts them and names the first; they come back as sent."""
    contents = [image(photo()), b"no image", b"", image(photo(seed=1))]
    dataset = read(tmp_path, zip_of([Entry(f"{i}.png".encode(), content) for i, content in enumerate(contents)]))
    (warning,) = dataset.warnings
    assert warning.startswith("images that cannot be read: 2; the first is '1.png'")
    save_dataset(dataset, tmp_path / "prepared.npz")
    assert [*load_dataset(tmp_path / "prepared.npz").inputs["images"]] == contents


def test_nothing_is_fitted_to_them(tmp_path: Path) -> None:
    """No model's classes fit rows that have none."""
    dataset = read(tmp_path, npz(x=ROWS))
    spec = TensorSpec(name="x", dtype="float32", shape=["N", 3])
    with refusal(BadDataset, "unlabelled_dataset"):
        align(dataset, model_inputs=[spec], num_classes=2, class_names=None)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (npz(x=ROWS, z=np.ones(3)), "length_mismatch"),
        (npz(x=np.float32(1)), "length_mismatch"),
        (npz(x=np.empty((0, 3))), "empty"),
        (npz(x=ROWS, id=np.arange(3)), "length_mismatch"),
        (csv(id=[1, 2]), "no_inputs"),
        (csv(a=["x", "y"]), "non_numeric_column"),
    ],
    ids=str,
)
def test_what_is_no_table_of_rows_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    """A file that says nothing about single rows is wrong as a whole."""
    with refusal(BadDataset, code):
        read(tmp_path, content, purpose="predict")
