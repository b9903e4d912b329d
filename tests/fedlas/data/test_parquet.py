"""Parquet files: every kind of column becomes the input, role or error that it should, however the file is cut."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedlas.data import ReadingOptions, read_dataset
from fedlas.data.columns import tensor
from fedlas.errors import BadDataset
from tests.helpers.refusals import refusal

N = 200
RNG = np.random.default_rng(0)
WORDS = np.array(["cat", "dog", "emu"])[np.arange(N) % 3]
CUBES = RNG.normal(size=(N, 3, 4)).astype(np.float32)
RAGGED = [[*range(1, 2 + i % 5)] for i in range(N)]


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """Row groups of 37 rows, so that nothing lies in one piece by chance."""
    file = path / "data.parquet"
    pq.write_table(pa.table({"label": WORDS, **columns}), file, **{"row_group_size": 37, **options})
    return file


TENSORS = {
    "nested lists": pa.array(CUBES.tolist(), pa.list_(pa.list_(pa.float32()))),
    "large lists": pa.array(CUBES.tolist(), pa.large_list(pa.large_list(pa.float32()))),
    "fixed lists": pa.array(CUBES.tolist(), pa.list_(pa.list_(pa.float32(), 4), 3)),
    "fixed in free": pa.array(CUBES.tolist(), pa.list_(pa.list_(pa.float32(), 4))),
    "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(CUBES),
    "turned tensors": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [4, 3], permutation=[1, 0]),
        pa.FixedSizeListArray.from_arrays(pa.array(CUBES.transpose(0, 2, 1).ravel()), 12),
    ),
}


@pytest.mark.parametrize(
    ("kind", "arrow_schema"),
    [*((kind, True) for kind in TENSORS), *((kind, False) for kind in TENSORS if "tensors" not in kind)],
)
def test_lists_are_tensors_under_their_names(kind: str, arrow_schema: bool, tmp_path: Path) -> None:
    """Lists of lists in every encoding are one array, with the numbers' own type, also where Arrow's schema is lost."""
    dataset = read_dataset(parquet(tmp_path, {"cubes": TENSORS[kind]}, store_schema=arrow_schema))
    assert list(dataset.inputs) == ["cubes"]
    np.testing.assert_array_equal(dataset.inputs["cubes"], CUBES)
    assert dataset.inputs["cubes"].dtype == np.float32
    assert (dataset.format, dataset.class_names) == ("parquet", ["cat", "dog", "emu"])


def test_numbers_stand_side_by_side(tmp_path: Path) -> None:
    """Numeric columns of any kind form the single input in file order, in a type that holds them all."""
    columns = {
        "small": np.arange(N, dtype=np.int8),
        "flag": np.arange(N) % 2 == 0,
        "price": pa.array([decimal.Decimal(i) / 4 for i in range(N)]),
        "kind": pa.array(np.arange(N) % 5).dictionary_encode(),
    }
    found = read_dataset(parquet(tmp_path, columns)).inputs
    expected = np.stack([np.arange(N).astype(np.int8), columns["flag"], np.arange(N) / 4, np.arange(N) % 5], axis=1)
    np.testing.assert_array_equal(found["inputs"], expected)
    assert found["inputs"].dtype == np.float64


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64])
def test_equal_types_are_kept(dtype: Any, tmp_path: Path) -> None:
    """Columns of one type stay of that type: pixels are bytes, and float32 takes no more room than it had."""
    values = RNG.integers(0, 100, (N, 3)).astype(dtype)
    found = read_dataset(parquet(tmp_path, {f"p{i}": values[:, i] for i in range(3)})).inputs["inputs"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == dtype


def test_lists_and_numbers_are_two_inputs(tmp_path: Path) -> None:
    """Beside list columns the numeric ones form `inputs`, or `inputs_` where a list has that name."""
    plain = np.arange(N)
    found = read_dataset(parquet(tmp_path, {"cubes": TENSORS["tensors"], "age": plain})).inputs
    assert list(found) == ["cubes", "inputs"]
    found = read_dataset(parquet(tmp_path, {"inputs": TENSORS["tensors"], "age": plain})).inputs
    assert list(found) == ["inputs", "inputs_"]
    np.testing.assert_array_equal(found["inputs_"], plain[:, None])


def test_dots_in_names_are_part_of_the_names(tmp_path: Path) -> None:
    """`a` and `a.b` are two columns, neither inside the other."""
    found = read_dataset(parquet(tmp_path, {"a": np.arange(N), "a.b": -np.arange(N)})).inputs["inputs"]
    np.testing.assert_array_equal(found, np.stack([np.arange(N), -np.arange(N)], axis=1))


@pytest.mark.parametrize("inner", [(), (2,)])
def test_ragged_lists_are_filled(inner: tuple[int, ...], tmp_path: Path) -> None:
    """Every row is as long as the longest one, filled behind, with the same type; rows may hold vectors."""
    values = [[[value] * inner[0] if inner else value for value in row] for row in RAGGED]
    kind = pa.list_(pa.list_(pa.int16(), 2)) if inner else pa.list_(pa.int16())
    path = parquet(tmp_path, {"tokens": pa.array(values, kind)})
    found = read_dataset(path, ReadingOptions(padding={"tokens": -7})).inputs["tokens"]
    assert found.shape == (N, 5, *inner)
    assert found.dtype == np.int16
    for row, filled in zip(values, found, strict=True):
        np.testing.assert_array_equal(filled[: len(row)], row)
        assert (filled[len(row) :] == -7).all()


def test_an_empty_list_can_be_filled(tmp_path: Path) -> None:
    """A row without any token is all padding."""
    path = parquet(tmp_path, {"tokens": pa.array([[], *RAGGED[1:]], pa.list_(pa.int64()))})
    np.testing.assert_array_equal(
        read_dataset(path, ReadingOptions(padding={"tokens": 0})).inputs["tokens"][0], np.zeros(5)
    )


def test_ragged_lists_without_padding_name_the_row(tmp_path: Path) -> None:
    """The first row of another length is named, with the option that would help, also far into the file."""
    lists = [[1, 2]] * 150 + [[1]] + [[1, 2]] * 49
    for values, words in ((RAGGED, "'t' has 2 values in row 1 and 1 in row 0"), (lists, "in row 150")):
        with refusal(BadDataset, "ragged", words) as caught:
            read_dataset(parquet(tmp_path, {"t": pa.array(values)}))
        assert "padding" in caught.value.message
    deep = [[[1, 2], [3, 4 + 0]] for _ in range(N)]
    deep[60] = [[1, 2], [3]]
    with pytest.raises(BadDataset, match="'t' has 1 values in row 60"):
        read_dataset(parquet(tmp_path, {"t": pa.array(deep)}))


@pytest.mark.parametrize(
    ("column", "options", "code", "words"),
    [
        (pa.array([None if i == 61 else i for i in range(N)]), {}, "non_finite", "'c' is empty or NaN in row 61"),
        (
            pa.array([np.inf if i == 61 else i for i in range(N)], pa.float64()),
            {"missing": "nan"},
            "non_finite",
            "row 61",
        ),
        (
            pa.array([None if i == 61 else [i] for i in range(N)]),
            {"missing": "nan"},
            "non_finite",
            "'c' is empty in row 61",
        ),
        (pa.array([[i, None if i == 61 else 0] for i in range(N)]), {}, "non_finite", r"row 61, position \[1\]"),
        (pa.array([f"w{i}" for i in range(N)]), {}, "non_numeric_column", "'c' is text .'w0' in row 0"),
        (pa.array([dt.date(2024, 1, 1)] * N), {}, "non_numeric_column", "date32.*2024-01-01"),
        (pa.array([b"x"] * N), {}, "unsupported_dtype", "'c' is binary.*zip of class folders"),
        (pa.array([{"a": 1}] * N), {}, "unsupported_dtype", "struct"),
        (pa.array([["x"]] * N), {}, "unsupported_dtype", "list<element: string>"),
        (pa.array(RAGGED), {"padding": {"d": 0}}, "bad_padding", "'d', but the list columns are c"),
        (pa.array(RAGGED), {"padding": {"c": 1.5}}, "bad_padding", "int64, which 1.5 is not"),
        (pa.array(RAGGED), {"roles": {"group": "c"}}, "bad_role", "'c' is a list column"),
        (pa.array([b"x"] * N), {"roles": {"group": "c"}}, "unsupported_dtype", "'c' is binary"),
    ],
)
def test_unfit_columns_are_named(column: Any, options: dict[str, Any], code: str, words: str, tmp_path: Path) -> None:
    """Each kind of column that cannot be what it stands for has its code and sentence."""
    with refusal(BadDataset, code, words):
        read_dataset(parquet(tmp_path, {"x": np.arange(N), "c": column}), ReadingOptions(**options))


def test_missing_numbers_can_be_let_through(tmp_path: Path) -> None:
    """With missing=nan an empty cell of a column of integers is NaN, and the pieces before it are floats too."""
    cells = pa.array([None if i in (5, 190) else i for i in range(N)], pa.int16())
    found = read_dataset(parquet(tmp_path, {"c": cells}), ReadingOptions(missing="nan")).inputs["inputs"]
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == [5, 190]
    assert found[189, 0] == 189


def test_roles_of_every_arrow_type(tmp_path: Path) -> None:
    """Dictionaries are text, zones become UTC, and no role becomes an input."""
    hours = [dt.datetime(2024, 3, 30, tzinfo=dt.UTC) + dt.timedelta(hours=i) for i in range(N)]
    columns = {
        "x": np.arange(N),
        "site": pa.array(WORDS).dictionary_encode(),
        "group": pa.array([f"p{i // 2}" for i in range(N)], pa.large_string()).dictionary_encode(),
        "time": pa.array(hours, pa.timestamp("ms", "Europe/Berlin")),
        "weight": pa.array([decimal.Decimal("1.5")] * N),
        "id": pa.array(np.arange(N, dtype=np.uint32)),
    }
    dataset = read_dataset(parquet(tmp_path, columns), ReadingOptions(roles={"slices": ["site"]}))
    assert list(dataset.inputs) == ["inputs"]
    np.testing.assert_array_equal(dataset.inputs["inputs"], np.arange(N)[:, None])
    assert dataset.slices["site"].tolist() == WORDS.tolist()
    assert dataset.groups is not None
    np.testing.assert_array_equal(dataset.groups[::2], dataset.groups[1::2])
    assert len(np.unique(dataset.groups)) == N // 2
    np.testing.assert_array_equal(dataset.splits, np.repeat([0, 1, 2, 3], [100, 40, 20, 40]))
    np.testing.assert_array_equal(dataset.weights, np.full(N, 1.5))
    np.testing.assert_array_equal(dataset.ids, np.arange(N))


@pytest.mark.parametrize(
    "labels", [WORDS, pa.array(WORDS).dictionary_encode(), np.arange(N) % 3, np.arange(N) % 3 * 1.0]
)
def test_labels_of_any_kind_are_indices(labels: Any, tmp_path: Path) -> None:
    """Words are numbered by sorted name, numbers are indices, dictionary-encoded or not."""
    dataset = read_dataset(parquet(tmp_path, {"x": np.arange(N), "label": labels}))
    np.testing.assert_array_equal(dataset.targets, np.arange(N) % 3)


def test_tensors_that_pyarrow_would_read_wrongly_are_refused() -> None:
    """A permutation that is not its own inverse (NHWC seen as NCHW) is reported, with what to send instead."""
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3, 4], permutation=[2, 0, 1])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(48, dtype=np.float32)), 24)
    with pytest.raises(BadDataset) as caught:
        tensor("x", pa.ExtensionArray.from_storage(kind, storage), first=0)
    assert (caught.value.code, "ascontiguousarray" in caught.value.message) == ("unsupported_dtype", True)
