"""A table that is sent to be predicted is the input that it was as a dataset, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlas.data import align_inputs, read_dataset
from fedlas.data.roles import LABEL_NAMES, ROLES
from service.inference.formats.intake import ROLE_NAMES
from service.registry.errors import InvalidRequest
from tests.inference.formats.bodies import ARROW, NPZ, Json, fixed_lists, lists, rows, stream

N = 60
SPLITS = ["train"] * 20 + ["calibration"] * 20 + ["test"] * 20
RNG = np.random.default_rng(0)

#: Columns of numbers by kind.
NUMBERS: dict[str, Any] = {
    "f2": RNG.normal(size=N).astype("f2"),
    "f4": RNG.normal(size=N).astype("f4"),
    "f8": RNG.normal(size=N),
    "i1": RNG.integers(-9, 9, N).astype("i1"),
    "i8": RNG.integers(-(2**62), 2**62, N),
    "u8": RNG.integers(0, 2**63, N).astype("u8") * 2 + 1,
    "bool": RNG.random(N) > 0.5,
    "decimal": pa.array(RNG.integers(0, 999, N)).cast(pa.decimal128(30, 3)),
}


def as_dataset(columns: Json, folder: Path, spec: Json) -> np.ndarray:
    """What training sees of a parquet file of these columns."""
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    inputs = read_dataset(path, seen_by_model="no").inputs
    return np.asarray(align_inputs(inputs, [spec])[spec["name"]])


def test_the_roles_are_those_of_datasets() -> None:
    """Serving leaves out the columns that training keeps out of the inputs."""
    assert {*ROLES, *LABEL_NAMES} == ROLE_NAMES


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(sorted(NUMBERS)), min_size=1, max_size=5),
    places=st.lists(st.integers(0, 5), min_size=2, max_size=2),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_columns_of_numbers(tmp_path: Path, kinds: list[str], places: list[int], dtype: str) -> None:
    """Columns of any types, with label and split anywhere among them, are the same rows to the last bit."""
    columns: list[tuple[str, Any]] = [(f"c{i}", NUMBERS[kind]) for i, kind in enumerate(kinds)]
    columns.insert(places[0], ("label", [0, 1] * (N // 2)))
    columns.insert(places[1], ("split", SPLITS))
    spec = {"name": "x", "dtype": dtype, "shape": ["N", len(kinds)]}
    trained = as_dataset(dict(columns), tmp_path, spec)
    served = rows(ARROW, stream(dict(columns)), {"inputs": [spec]})["x"]
    assert served.tobytes() == trained.tobytes()
    assert served.shape == trained.shape


@pytest.mark.parametrize("way", [lists, fixed_lists, lambda x: lists(x, pa.large_list)])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "bool"])
def test_columns_of_lists(tmp_path: Path, way: Any, kind: str) -> None:
    """A column of lists is the input, under any name."""
    array = np.stack([NUMBERS[kind]] * 6, axis=1).reshape(N, 2, 3)
    columns = {"embedding": way(array), "label": [0, 1] * (N // 2), "split": SPLITS}
    spec = {"name": "x", "dtype": "float32", "shape": ["N", 2, 3]}
    served = rows(ARROW, stream(columns), {"inputs": [spec]})["x"]
    np.testing.assert_array_equal(served, as_dataset(columns, tmp_path, spec), strict=True)


def test_arrays_of_an_npz(tmp_path: Path) -> None:
    """The npz that was a dataset can be sent as it is."""
    path = tmp_path / "rows.npz"
    spec = {"name": "model_input", "dtype": "float32", "shape": ["N", 3]}
    np.savez(path, x=RNG.normal(size=(N, 3)), y=[0, 1] * (N // 2), split=SPLITS)
    trained = align_inputs(read_dataset(path, seen_by_model="no").inputs, [spec])["model_input"]
    served = rows(NPZ, path.read_bytes(), {"inputs": [spec]})["model_input"]
    np.testing.assert_array_equal(served, trained, strict=True)


def test_what_training_would_have_taken_otherwise_is_refused(tmp_path: Path) -> None:
    """Where one of two names for the label was an input, a table without the other one is no silent mistake."""
    columns = {"a": NUMBERS["f4"], "y": NUMBERS["f4"], "label": [0, 1] * (N // 2), "split": SPLITS}
    spec = {"name": "x", "dtype": "float32", "shape": ["N", 2]}
    assert as_dataset(columns, tmp_path, spec).shape == (N, 2), "with `label` there, `y` is an input"
    with pytest.raises(InvalidRequest, match=r"1 columns of numbers \('a'\) \('y' left out"):
        rows(ARROW, stream({"a": NUMBERS["f4"], "y": NUMBERS["f4"]}), {"inputs": [spec]})
