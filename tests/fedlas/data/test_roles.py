"""Columns of datasets: an index is none of them, and those that both sides name stand as the model takes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedlas.contract.profiles import TensorSpec
from fedlas.data import Dataset, ReadingOptions, align, load_dataset, read_dataset, save_dataset
from fedlas.data.roles import ColumnOrder
from fedlas.errors import Mismatch
from tests.helpers.refusals import refusal

NAMES = ["age", "height", "dose"]
FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32), columns=NAMES)
LABELS = np.arange(90) % 3


def written(folder: Path, frame: pd.DataFrame, kind: str, **options: Any) -> Dataset:
    """The dataset read from a frame with labels that pandas has written with its defaults, or these options."""
    buffer = io.BytesIO()
    frame.assign(label=LABELS).to_parquet(buffer) if kind == "parquet" else frame.assign(label=LABELS).to_csv(buffer)
    file = folder / f"rows.{kind}"
    file.write_bytes(buffer.getvalue())
    return read_dataset(file, ReadingOptions(**options))


def fitted(dataset: Dataset, columns: list[str] | None, width: int | str = 3, **more: Any) -> Dataset:
    """The dataset as a model with these columns takes it."""
    spec = TensorSpec(name="x", dtype="float32", shape=["N", width])
    classes = {"num_classes": 3, "class_names": None}
    return align(dataset, model_inputs=[spec], columns=columns, **classes, **more)


def notices(dataset: Dataset) -> dict[str, Any]:
    """The evidence of what was done, by code."""
    return {notice.code: dict(notice.evidence) for notice in dataset.adjustments}


INDEXED = {
    "shuffled": (
        FRAME.set_index(np.random.default_rng(1).permutation(90)),
        {"csv": "", "parquet": "__index_level_0__"},
    ),
    "named": (FRAME.set_index(pd.Index(np.arange(90) % 24, name="hour")), {"parquet": "hour"}),
    "read back": (FRAME.reset_index().rename(columns={"index": "Unnamed: 0"}), {"csv": "Unnamed: 0"}),
    "reset": (FRAME.reset_index(), {"csv": "index", "parquet": "index"}),
}


@pytest.mark.parametrize(("which", "kind"), [(which, kind) for which in INDEXED for kind in INDEXED[which][1]])
def test_a_pandas_index_is_no_feature(which: str, kind: str, tmp_path: Path) -> None:
    """However it is called, what pandas adds to a frame is dropped and reported, and the features keep their names."""
    frame, dropped = INDEXED[which]
    dataset = written(tmp_path, frame, kind)
    assert dataset.columns == NAMES
    np.testing.assert_allclose(dataset.inputs["inputs"], FRAME.to_numpy(), rtol=1e-5)
    assert dropped[kind] in notices(dataset)["index_dropped"]["columns"]


def test_an_own_column_is_kept(tmp_path: Path) -> None:
    """A column called index that does not count the rows is a feature, and one with a role keeps it."""
    assert written(tmp_path, FRAME.assign(index=np.arange(90)[::-1]), "parquet").columns == [*NAMES, "index"]
    dataset = written(tmp_path, FRAME.assign(index=np.arange(90)), "parquet", roles={"id": "index"})
    assert (dataset.columns, notices(dataset)) == (NAMES, {})
    assert dataset.ids is not None


def test_names_stay_in_the_prepared_copy(tmp_path: Path) -> None:
    """Columns, reading and adjustments are what they were, and the record shows them."""
    dataset = written(tmp_path, FRAME.set_index(np.arange(90) + 7), "csv", missing="nan")
    save_dataset(dataset, tmp_path / "copy.npz")
    copy = load_dataset(tmp_path / "copy.npz")
    assert (copy.columns, copy.reading) == (NAMES, {"padding": None, "missing": "nan"})
    assert copy.adjustments == dataset.adjustments
    profile = copy.profile()
    assert (profile["columns"], profile["adjustments"][0]["code"]) == (NAMES, "index_dropped")


def test_columns_are_put_into_the_models_order(tmp_path: Path) -> None:
    """Matched by name, whatever their order; what the model does not know is left out; both are reported."""
    turned = [*NAMES[::-1], "weight_kg"]
    result = fitted(written(tmp_path, FRAME.assign(weight_kg=1.0)[turned], "parquet"), NAMES, scratch=tmp_path)
    np.testing.assert_array_equal(result.inputs["x"], FRAME.to_numpy())
    assert result.columns == NAMES
    dropped, reordered = {"columns": ["weight_kg"]}, {"dataset": turned, "model": NAMES}
    assert notices(result) == {"columns_dropped": dropped, "columns_reordered": reordered}


def test_a_large_table_is_put_in_order_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece, where it is larger than memory should hold."""
    dataset = written(tmp_path, FRAME[NAMES[::-1]], "csv")
    monkeypatch.setattr("fedlas.data.alignment.MEMORY_BYTES", 100)
    np.testing.assert_allclose(fitted(dataset, NAMES, scratch=tmp_path).inputs["x"], FRAME.to_numpy(), rtol=1e-5)


@pytest.mark.parametrize("columns", [None, NAMES])
def test_without_names_on_one_side_the_place_counts(columns: list[str] | None, tmp_path: Path) -> None:
    """The names that there are stay with the rows, the model's own before the dataset's."""
    dataset = written(tmp_path, FRAME, "parquet")
    bare = Dataset(dataset.inputs, dataset.targets, dataset.class_names, False, dataset.splits)
    assert fitted(bare, columns).columns == columns
    assert fitted(dataset, None).columns == NAMES
    np.testing.assert_array_equal(fitted(bare, columns).inputs["x"], FRAME.to_numpy())


def test_missing_and_surplus_columns_are_named(tmp_path: Path) -> None:
    """A column that the model needs is not made up; the index that was dropped is named beside it."""
    dataset = written(tmp_path, FRAME.assign(extra=1.0).set_index(np.arange(90) + 7), "csv")
    with refusal(Mismatch, "columns_mismatch") as caught:
        fitted(dataset, ["age", "height", "dose", "Unnamed: 0"])
    for words in ("lacks 'Unnamed: 0'", "has 'extra'", "no name, is a pandas index"):
        assert words in caught.value.message
    with refusal(Mismatch, "inputs_mismatch", "the dataset's columns are 'age', 'height', 'dose', 'extra'"):
        fitted(dataset, None, 5)


def test_equal_orders_cost_nothing() -> None:
    """Columns that stand as they should are not taken apart."""
    order = ColumnOrder.of(NAMES, NAMES)
    assert (order.places, order.adjustments, order.names) == (None, [], NAMES)


def padded_rows(folder: Path, fill: int) -> Dataset:
    """Token lists of one to five numbers."""
    tokens = [[*range(1, 2 + row % 5)] for row in range(90)]
    pd.DataFrame({"ids": tokens, "label": LABELS}).to_parquet(folder / "tokens.parquet")
    return read_dataset(folder / "tokens.parquet", ReadingOptions(padding={"ids": fill}))


def test_padding_is_remembered_under_the_models_name(tmp_path: Path) -> None:
    """The padding that filled the dataset's rows fills those that are shorter than the model's, and later ones."""
    spec = TensorSpec(name="tokens", dtype="int64", shape=["N", 8])
    dataset = padded_rows(tmp_path, 9)
    given: dict[str, Any] = {"model_inputs": [spec], "num_classes": 3, "class_names": None}
    result = align(dataset, **given, scratch=tmp_path)
    assert result.reading == {"padding": {"tokens": 9}, "missing": "reject"}
    assert result.inputs["tokens"][:2].tolist() == [[1, *[9] * 7], [1, 2, *[9] * 6]]
    same = align(dataset, **given, reading={"padding": {"tokens": 9}, "missing": "nan"})
    assert same.reading == {"padding": {"tokens": 9}, "missing": "nan"}
    with refusal(Mismatch, "padding_mismatch", "padded with 9, the model's rows with 0"):
        align(dataset, **given, reading={"padding": {"tokens": 0}, "missing": "reject"})
