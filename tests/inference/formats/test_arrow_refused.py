"""Arrow streams that are damaged, hostile or do not fit: refused in words, before anything is built of them."""

from __future__ import annotations

import decimal
import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.inference.formats import messages
from service.registry.errors import InvalidRequest, TooLarge
from tests.inference.formats.bodies import ARROW, GRID, TABLE, TOKENS, Json, fixed_lists, lists, rows, stream

X = np.arange(12, dtype="f4").reshape(3, 4)
MIXED = {"a": [1, 2], "b": [0.5, 1.5], "c": [True, False], "d": pa.array([3, 4], pa.uint8())}


def compressed(codec: str) -> bytes:
    """Bodies of batches, deflated."""
    return stream({"x": lists(np.zeros((3, 4)))}, options=pa.ipc.IpcWriteOptions(compression=codec))


def extended(name: str) -> bytes:
    """A column that asks for a type of somebody else's."""
    field = pa.field("x", pa.list_(pa.float32()), metadata={"ARROW:extension:name": name})
    batch = pa.record_batch([lists(X)], schema=pa.schema([field]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def nested(depth: int) -> bytes:
    """Lists in lists."""
    kind: Any = pa.float32()
    for _ in range(depth):
        kind = pa.list_(kind)
    return stream(pa.schema([("x", kind)]))


def big_endian() -> bytes:
    """A schema that claims the other byte order: no writer here makes one, so the flag is put in by hand."""
    body = bytearray(stream({"x": lists(X)}))
    table = struct.unpack_from("<I", body, 8)[0] + 8
    message = table - struct.unpack_from("<i", body, table)[0]
    place = table + struct.unpack_from("<H", body, message + 4 + 2 * 2)[0]
    schema = place + struct.unpack_from("<I", body, place)[0]
    directory = schema - struct.unpack_from("<i", body, schema)[0]
    # The slot is absent, since little-endian is the default: let it point at a number that is not zero.
    struct.pack_into("<H", body, directory + 4, struct.unpack_from("<H", body, directory + 4 + 2)[0])
    return bytes(body)


def feather() -> bytes:
    """The file format."""
    batch = pa.record_batch({"x": lists(X)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def twice() -> bytes:
    """Two columns of one name."""
    batch = pa.record_batch([pa.array([1.0])] * 4, names=["a", "b", "a", "c"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def tensor_message() -> bytes:
    """A message that is no batch."""
    sink = pa.BufferOutputStream()
    pa.ipc.write_tensor(pa.Tensor.from_numpy(X), sink)
    return bytes(sink.getvalue())


GOOD = stream({"x": fixed_lists(X)})
SCHEMA = stream(pa.schema([("x", pa.list_(pa.float32(), 4))]))[:-8]
COLUMN = stream({**MIXED, "b": ["x", "y"]})


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (compressed("zstd"), "invalid_arrow", "compressed"),
        (compressed("lz4"), "invalid_arrow", "compressed"),
        (stream({**MIXED, "b": pa.array(["x", "y"]).dictionary_encode()}), "invalid_arrow", "'b' is dictionary"),
        (stream({**MIXED, "label": pa.array([5, 6]).dictionary_encode()}), "invalid_arrow", "'label' is dictionary"),
        (stream({"x": lists(X), "d": pa.array([["a"]] * 3, pa.list_(pa.dictionary(pa.int8(), pa.string())))}),
         "invalid_arrow", "dictionary-encoded"),
        (stream({"x": pa.array([b"0" * 16] * 2, pa.uuid())}), "invalid_arrow", "extension type 'arrow.uuid'"),
        (stream({"x": pa.array([1, 0], pa.bool8())}), "invalid_arrow", "extension type 'arrow.bool8'"),
        (extended("arrow.py_extension_type"), "invalid_arrow", "of those only 'arrow.fixed_shape_tensor' is read"),
        (extended("datasets.features.features.Array2DExtensionType"), "invalid_arrow", "extension type"),
        (feather(), "invalid_arrow", "Feather"),
        (big_endian(), "invalid_arrow", "big-endian"),
        (nested(16), "invalid_arrow", "deep"),
        (nested(200), "invalid_arrow", ""),
        (tensor_message(), "invalid_arrow", "it has tensors"),
        (SCHEMA + GOOD, "invalid_arrow", "a schema must come first"),
        (GOOD[len(SCHEMA):], "invalid_arrow", "a schema must come first"),
        (GOOD + b"\0" * 8, "invalid_arrow", "8 bytes follow"),
        (GOOD + GOOD, "invalid_arrow", f"{len(GOOD)} bytes follow"),
        (GOOD[:-20], "invalid_arrow", "Expected"),
        (GOOD[:100], "invalid_arrow", "Expected"),
        (b"\xff\xff\xff\xff\0\0\0\0", "invalid_arrow", "no schema"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "invalid_arrow", "more than 4 MiB"),
        (b"\xff\xff\xff\x7f", "invalid_arrow", "more than 4 MiB"),
        (SCHEMA + b"\xff\xff\xff\xff\xff\xff\xff\x7f", "invalid_arrow", "more than 4 MiB"),
        (b"{}", "invalid_arrow", ""),
        (b"\xff" * 100, "invalid_arrow", ""),
        (stream({"x": pa.array([{"a": 1.0}])}), "invalid_arrow", "struct<a: double>; read are numbers, lists"),
        (stream({"x": pa.array([["a"]])}), "invalid_arrow", "list<item: string>"),
        (stream({"x": pa.array([None, None])}), "invalid_arrow", "is null"),
        (stream({"x": pa.array(["a"], pa.string_view())}), "invalid_arrow", "Polars"),
        (stream({"x": pa.array([[(1, 2.0)]], pa.map_(pa.int8(), pa.float32()))}), "invalid_arrow", "map<"),
        (stream({"x": pa.array([[1.0]], pa.list_view(pa.float64()))}), "invalid_arrow", "list_view"),
        (stream({"x": pa.array([100], pa.decimal128(3, -2))}), "invalid_arrow", "decimal128(3, -2)"),
        (COLUMN, "wrong_dtype", "'b' is string: encode it as numbers, or leave it out"),
        (stream({**MIXED, "b": pa.array([1, 2], pa.date32())}), "wrong_dtype", "'b' is date32[day]"),
        (twice(), "wrong_inputs", "'a' appears more than once"),
        (stream({"x": lists(X), "z": lists(X)}), "wrong_inputs", "named 'x'; found 'x', 'z'"),
        (stream({"x": lists(X), "z": [1, 2, 3]}), "wrong_inputs", "named 'x'; found 'x', 'z'"),
        (stream({"label": [1, 2]}), "wrong_inputs", "found none ('label' left out: so roles of datasets are called)"),
        (stream({"a": [1.0], "b": [1], "label": [0]}), "wrong_shape",
         "2 columns of numbers ('a', 'b') ('label' left out: so roles of datasets are called); needed are rows of 4"),
        (stream({f"c{i}": [1.0] for i in range(300)}), "wrong_shape", "'c19' and 280 more); needed"),
        (stream({"x": lists(X[:, :3])}), "wrong_shape", "rows of shape [3]; needed are rows of shape [4]"),
        (stream({"x": pa.array([[1.0], [1.0], [1.0] * 3])}), "wrong_shape", "a list of 3 in row 2 and of 1 in row 0"),
        (stream({"x": lists(X)}, {"x": lists(X[:, :2])}), "wrong_shape", "from row 3 on [2]"),
        (stream({"x": lists(X)}, {"x": pa.array([[1.0] * 4, [1.0]], pa.list_(pa.float32()))}), "wrong_shape", "row 4"),
        (stream({"x": pa.array([[1.0] * 4, None], pa.list_(pa.float32()))}), "non_finite", "'x', row 1: an empty cell"),
        (stream({"x": pa.array([[1.0] * 4, [1.0, None, 1.0, 1.0]])}), "non_finite", "'x', row 1: an empty cell"),
        (stream({**MIXED, "b": [1.0, None]}), "non_finite", "'b', row 1: an empty cell"),
        (stream(MIXED, {**MIXED, "a": [None, 3]}), "non_finite", "'a', row 2: an empty cell"),
        (stream(MIXED, {**MIXED, "b": [1.0, np.nan]}), "non_finite", "row 3: NaN"),
        (stream(pa.schema([("x", pa.list_(pa.float32()))])), "empty_inputs", "no row"),
        (stream({"x": lists(X[:0])}), "empty_inputs", "no row"),
    ],
)  # fmt: skip
def test_bad_streams(body: bytes, code: str, words: str) -> None:
    """Each kind of bad stream has a code, and is told in words what was found and what is needed."""
    with pytest.raises(InvalidRequest) as caught:
        rows(ARROW, body)
    assert (caught.value.code, caught.value.field) == (code, "inputs")
    assert words in caught.value.message


def test_empty_cells_deep_inside() -> None:
    """An empty cell in a list in a list is told by its row of the request."""
    deep = pa.array([[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, None, 6]]], pa.list_(pa.list_(pa.float32(), 3), 2))
    whole = pa.array([[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], None]], pa.list_(pa.list_(pa.float32(), 3), 2))
    for column in (deep, whole, deep.cast(pa.list_(pa.list_(pa.float32())))):
        with pytest.raises(InvalidRequest, match=r"'x', row 3: an empty cell"):
            rows(ARROW, stream({"x": column[:1]}, {"x": column[:1]}, {"x": column}), GRID)


def test_images_that_are_not_there() -> None:
    """An empty cell is no image file."""
    profile = {**GRID, "preprocessing": {"resize": 8}}
    for column in (
        pa.array([b"x", None]),
        pa.array([{"bytes": b"x"}, None]),
        pa.array([{"bytes": b"x"}, {"bytes": None}]),
    ):
        with pytest.raises(InvalidRequest, match=r"^row 1: an empty cell") as caught:
            rows(ARROW, stream({"x": column}), profile)
        assert caught.value.code == "bad_image"


def test_rows_are_counted_before_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many rows are refused by what batches claim, one batch after the other; so are too many batches."""
    monkeypatch.setattr(pa.ipc, "read_record_batch", pytest.fail)
    claims = bytearray(stream({"x": fixed_lists(X)}))
    place = bytes(claims).index(struct.pack("<q", 3), len(SCHEMA))
    for count, told in ((1001, "1001 rows"), (1 << 62, f"{1 << 62} rows")):
        struct.pack_into("<q", claims, place, count)
        with pytest.raises(TooLarge, match=f"at least {told} in one request; at most 1000") as caught:
            rows(ARROW, bytes(claims))
        assert caught.value.code == "too_many_rows"
    struct.pack_into("<q", claims, place, -1)
    with pytest.raises(InvalidRequest, match="a batch claims -1 rows"):
        rows(ARROW, bytes(claims))
    monkeypatch.setattr(messages, "MAX_BATCHES", 3)
    with pytest.raises(InvalidRequest, match="more than 3 batches"):
        rows(ARROW, stream(*[{"x": fixed_lists(X[:0])}] * 4))


def test_rows_over_several_batches_are_counted() -> None:
    """It is the rows of all batches that must not be too many."""
    batches = [{"x": fixed_lists(X)}] * 3
    assert len(rows(ARROW, stream(*batches), max_rows=9)["x"]) == 9
    with pytest.raises(TooLarge, match="at least 9 rows in one request; at most 8"):
        rows(ARROW, stream(*batches), max_rows=8)


@pytest.mark.parametrize(("start", "size"), [(4, 48), (0, 1 << 40), (1 << 40, 8), (-8, 8), (0, -1), ((1 << 63) - 8, 8)])
def test_values_lie_inside_of_their_batch(start: int, size: int) -> None:
    """A batch cannot point outside of itself, or between eight bytes."""
    body = bytearray(GOOD)
    place = bytes(body).index(struct.pack("<qq", 0, 48), len(SCHEMA))
    struct.pack_into("<qq", body, place, start, size)
    with pytest.raises(InvalidRequest, match="outside of it, or not at a multiple of eight"):
        rows(ARROW, bytes(body))


@pytest.mark.parametrize("offsets", [[0, 4, 8, 1 << 30], [0, 8, 4, 12], [-4, 0, 4, 8], [0, 4, 8, 13]])
def test_lists_lie_inside_of_their_values(offsets: list[int]) -> None:
    """Offsets that lead out of the values, or back, are found before they are followed."""
    body = bytearray(stream({"x": lists(X)}))
    place = bytes(body).index(struct.pack("<4i", 0, 4, 8, 12))
    struct.pack_into("<4i", body, place, *offsets)
    with pytest.raises(InvalidRequest) as caught:
        rows(ARROW, bytes(body))
    assert caught.value.code == "invalid_arrow"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"shape": [2, 2]}, {"shape": [9, 9]}),
        ({"shape": [2, 2]}, {"shape": [4, 2]}),
        ({"shape": [2, 2], "permutation": [0, 1]}, {"shape": [2, 2], "permutation": [7, 1]}),
        ({"shape": [2, 2], "permutation": [0, 1]}, {"shape": [2, 2], "permutation": [1, 1]}),
        ({"shape": [22, 22]}, {"shape": [-2, -2]}),
        ({"shape": [2, 2]}, {"shape": 12345}),
    ],
)
def test_tensors_that_lie(old: Json, new: Json) -> None:
    """A tensor whose shape is not what its lists hold is never made."""
    before, after = (json.dumps(value, separators=(",", ":")).encode() for value in (old, new))
    kind = pa.fixed_shape_tensor(pa.float32(), old["shape"], permutation=old.get("permutation"))
    storage = fixed_lists(np.zeros((2, int(np.prod(old["shape"]))), "f4"))
    body = stream({"x": pa.ExtensionArray.from_storage(kind, storage)})
    assert before in body
    with pytest.raises(InvalidRequest) as caught:
        rows(ARROW, body.replace(before, after.ljust(len(before))))
    assert caught.value.code == "invalid_arrow"


def test_decimals_with_impossible_scales() -> None:
    """A scale beyond the precision, with which Arrow's own cast reads past its tables, is refused with the schema."""
    columns = {name: pa.array([decimal.Decimal(2**90)] * 2, pa.decimal128(38, 7)) for name in "abcd"}
    body = stream(columns)
    scale, found = struct.pack("<ii", 38, 7), []
    for pattern in (scale, scale[4:] + scale[:4]):
        found += [place for place in range(0, len(body) - 8, 4) if body[place : place + 8] == pattern]
    assert found
    for place in found:
        changed = bytearray(body)
        changed[place : place + 8] = bytes(changed[place : place + 8]).replace(
            scale[4:], struct.pack("<i", (1 << 31) - 1)
        )
        with pytest.raises(InvalidRequest, match=r"is decimal128\(38, 2147483647\)"):
            rows(ARROW, changed)


def test_every_beginning_of_a_stream() -> None:
    """Wherever a stream is cut, it is refused, or read up to a batch."""
    body = stream({"x": lists(X)}, {"x": lists(X[:1])})
    outcomes = set()
    for size in range(len(body)):
        try:
            outcomes.add(len(rows(ARROW, body[:size])["x"]))
        except InvalidRequest as error:
            outcomes.add(error.code)
    assert outcomes == {"invalid_arrow", "empty_inputs", 3, 4}


def test_several_inputs_need_all_names() -> None:
    """Several inputs come under their names, nothing missing and nothing more."""
    for columns in ({"ids": lists(X)}, {"ids": lists(X), "mask": lists(X), "more": [1, 2, 3]}, {"a": [1], "b": [2]}):
        with pytest.raises(InvalidRequest, match="named 'ids', 'mask'; found") as caught:
            rows(ARROW, stream(columns), TOKENS)
        assert caught.value.code == "wrong_inputs"


def test_the_order_of_columns_is_kept_in_the_message() -> None:
    """The table's width is told before anything is built, whatever else is wrong with it."""
    body = stream({"a": [None, 1.0], "b": [1, 2]})
    with pytest.raises(InvalidRequest, match=r"2 columns of numbers \('a', 'b'\); needed are rows of 4 numbers"):
        rows(ARROW, body, TABLE)
