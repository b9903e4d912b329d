"""Arrow streams: what pyarrow writes is read to the last value, whatever the columns are."""

from __future__ import annotations

import decimal
import struct
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.inference.formats.columns import numbers
from service.registry.errors import InvalidRequest
from tests.inference.formats.bodies import ARROW, GRID, Json, fixed_lists, lists, rows, stream

Array = np.ndarray
X = np.arange(12, dtype="f4").reshape(3, 4)
MIXED = {"a": [1, 2], "b": [0.5, 1.5], "c": [True, False], "d": pa.array([3, 4], pa.uint8())}


def open_sized(array: Array) -> Json:
    """A model that takes rows of any size, in this type."""
    shape = ["N", *(f"d{i}" for i in range(1, array.ndim))]
    return {"inputs": [{"name": "x", "dtype": array.dtype.name, "shape": shape}]}


NUMBERS = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_what_pyarrow_writes(data: st.DataObject) -> None:
    """Rows of any number type and shape, in lists of any kind and batches of any size, come back to the last bit."""
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4))
    kind = np.dtype(data.draw(NUMBERS))
    finite = {"allow_nan": False, "allow_infinity": False} if kind.kind == "f" else {}
    array = data.draw(arrays.arrays(kind, shape, elements=arrays.from_dtype(kind, **finite)))
    written = [pa.list_, pa.large_list, lambda item: pa.list_(item, -1)]
    way = data.draw(st.sampled_from([fixed_lists, *(lambda x, k=k: lists(x, k) for k in written)]))
    cut = data.draw(st.integers(0, len(array)))
    batches = [array[:cut], array[cut:]]
    body = stream(*({"x": way(batch)} for batch in batches if len(batch) or data.draw(st.booleans())))
    found = rows(ARROW, body, open_sized(array))["x"]
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()
    assert found.shape == array.shape


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_columns_that_are_slices(data: st.DataObject) -> None:
    """A piece of a longer column, at any depth, is that piece: writers may keep what stands around it."""
    array = np.arange(6 * 3 * 2, dtype="i4").reshape(6, 3, 2)
    start = data.draw(st.integers(0, 5))
    stop = data.draw(st.integers(start + 1, 6))
    way = data.draw(st.sampled_from([fixed_lists, lists]))
    column = way(array).slice(start, stop - start)
    np.testing.assert_array_equal(numbers("x", column, first=0), array[start:stop], strict=True)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 0]])
def test_tensors_in_another_order(order: list[int]) -> None:
    """A tensor that is stored with two dimensions exchanged is the array that its sender saw."""
    seen = np.arange(2 * 24, dtype="f4").reshape(2, 2, 3, 4).transpose(0, *(place + 1 for place in order))
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(seen)
    found = rows(ARROW, stream({"x": column}), open_sized(seen))["x"]
    np.testing.assert_array_equal(found, seen, strict=True)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 2, 3, 1)])
def test_tensors_in_an_ambiguous_order(order: tuple[int, ...]) -> None:
    """Channels moved to the front or the back without a copy: pyarrow itself reads something else than it wrote."""
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(48, dtype="f4").reshape(2, 2, 3, 4).transpose(order))
    with pytest.raises(InvalidRequest, match=r"ambiguous; send them row by row \(numpy.ascontiguousarray\)") as caught:
        rows(ARROW, stream({"x": column}), GRID)
    assert caught.value.code == "invalid_arrow"


def test_columns_of_numbers_stand_side_by_side() -> None:
    """Columns of numbers, in their order and whatever their types, are the rows of a single input; true is 1."""
    found = rows(ARROW, stream(MIXED))["x"]
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 0.5, 1, 3], [2, 1.5, 0, 4]]
    turned = rows(ARROW, stream(dict(reversed(MIXED.items()))))["x"]
    assert turned.tolist() == [row[::-1] for row in found.tolist()]


def test_a_data_frame() -> None:
    """What pandas makes of a table is read, its own notes and booleans included."""
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": [1, 2], "c": [True, False], "d": [7, 8], "label": ["x", "y"]})
    table = pa.Table.from_pandas(frame)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert rows(ARROW, sink.getvalue().to_pybytes())["x"].tolist() == [[1.5, 1, 1, 7], [2.5, 2, 0, 8]]


def test_decimals() -> None:
    """Decimals are numbers, in columns and in lists."""
    values = [decimal.Decimal("1.25"), decimal.Decimal("-3.50")]
    columns = {name: pa.array(values, pa.decimal128(10, 2)) for name in "abcd"}
    assert rows(ARROW, stream(columns))["x"].tolist() == [[1.25] * 4, [-3.5] * 4]
    column = pa.array([values * 2], pa.list_(pa.decimal256(40, 3)))
    assert rows(ARROW, stream({"x": column}))["x"].tolist() == [[1.25, -3.5, 1.25, -3.5]]


def test_true_and_false() -> None:
    """Lists of booleans are 1 and 0 where the model takes numbers, as in datasets; and booleans where it takes them."""
    array = np.array([[True, False, True, True]])
    assert rows(ARROW, stream({"x": lists(array)}))["x"].tolist() == [[1, 0, 1, 1]]
    found = rows(ARROW, stream({"x": lists(array)}), open_sized(array))["x"]
    assert (found.dtype, found.tolist()) == (np.bool_, array.tolist())


@pytest.mark.parametrize("name", ["label", "y", "id", "time", "weight", "split", "group"])
@pytest.mark.parametrize("values", [["p", "q"], [8, 9], pa.array([1, 2], pa.timestamp("s")), [b"a", b"b"]])
def test_columns_called_as_roles_are_left_out(name: str, values: Any) -> None:
    """A label beside the rows is never fed to the model, wherever it stands and whatever it is."""
    first, *others = MIXED.items()
    found = rows(ARROW, stream({first[0]: first[1], name: values, **dict(others)}))["x"]
    np.testing.assert_array_equal(found, rows(ARROW, stream(MIXED))["x"])


def test_an_input_may_be_called_as_a_role() -> None:
    """What the model itself names is an input."""
    profile = {"inputs": [{"name": name, "dtype": "float32", "shape": ["N", "T"]} for name in ("time", "y")]}
    found = rows(ARROW, stream({"y": lists(X), "time": lists(X[:, :1]), "id": ["a", "b", "c"]}), profile)
    assert [array.shape for array in found.values()] == [(3, 1), (3, 4)]


def test_numbers_need_not_be_aligned() -> None:
    """A stream whose parts do not begin at multiples of eight bytes is read all the same, and its numbers moved."""
    array = np.arange(8, dtype="f8").reshape(2, 4)
    body = stream({"x": fixed_lists(array)})
    (length,) = struct.unpack_from("<i", body, 4)
    moved = body[:4] + struct.pack("<i", length + 4) + body[8 : 8 + length] + bytes(4) + body[8 + length :]
    found = rows(ARROW, moved, open_sized(array))["x"]
    assert found.tolist() == array.tolist()
    assert found.flags.aligned


def test_streams_without_an_end_and_of_old_writers() -> None:
    """A stream may end without saying so, and be written without the marks that Arrow 0.15 brought."""
    assert rows(ARROW, stream({"x": fixed_lists(X)})[:-8])["x"].tolist() == X.tolist()
    old = stream({"x": fixed_lists(X)}, options=pa.ipc.IpcWriteOptions(use_legacy_format=True))
    assert old[:4] != b"\xff" * 4
    assert rows(ARROW, old)["x"].tolist() == X.tolist()
