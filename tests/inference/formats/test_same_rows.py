"""The same rows in any format are the same arrays, as the engine wants them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from service.inference import formats
from service.inference.inputs import parse_inputs
from service.inference.runtime import session_options
from service.registry.errors import InvalidRequest, TooLarge, UnsupportedFormat
from tests.corpus.images import image, photo
from tests.inference.formats.bodies import (
    ARROW,
    FORM,
    GRID,
    NPY,
    NPZ,
    PICTURES,
    TABLE,
    TOKENS,
    Json,
    file_parts,
    fixed_lists,
    form,
    lists,
    npy,
    npz,
    read,
    rows,
    stream,
)

Array = np.ndarray
RNG = np.random.default_rng(0)
FLAT = RNG.normal(size=(5, 4)).astype("f4")
DEEP = RNG.normal(size=(5, 2, 3)).astype("f4")
IDS, MASK = RNG.integers(0, 9, (3, 6)), RNG.integers(0, 2, (3, 6))

#: Ways to write the rows of one input.
ONE: dict[str, Callable[[Array], tuple[str, bytes]]] = {
    "npy": lambda x: (NPY, npy(x)),
    "npy float64": lambda x: (NPY, npy(x.astype("f8"))),
    "npy big-endian": lambda x: (NPY, npy(x.astype(">f4"))),
    "npy columns first": lambda x: (NPY, npy(np.asfortranarray(x))),
    "npy 2.0": lambda x: (NPY, npy(x, version=(2, 0))),
    "npz": lambda x: (NPZ, npz(x=x)),
    "npz of an array without a name": lambda x: (NPZ, npz(arr_0=x)),
    "npz deflated": lambda x: (NPZ, npz(compressed=True, x=x)),
    "npz sent as npy": lambda x: (NPY, npz(x=x)),
    "npy sent as npz": lambda x: (NPZ, npy(x)),
    "fixed-size lists": lambda x: (ARROW, stream({"x": fixed_lists(x)})),
    "lists": lambda x: (ARROW, stream({"x": lists(x)})),
    "large lists": lambda x: (ARROW, stream({"x": lists(x, pa.large_list)})),
    "tensors": lambda x: (ARROW, stream({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x)})),
    "batches": lambda x: (ARROW, stream({"x": lists(x[:2])}, {"x": lists(x[:0])}, {"x": lists(x[2:])})),
    "any name": lambda x: (ARROW, stream({"embedding": fixed_lists(x)})),
}


@pytest.mark.parametrize("way", ONE)
@pytest.mark.parametrize(("profile", "array"), [(TABLE, FLAT), (GRID, DEEP)], ids=["flat", "deep"])
def test_one_input(way: str, profile: Json, array: Array) -> None:
    """Whatever the rows of a single input are written in, they are what JSON says, contiguous and aligned."""
    content_type, body = ONE[way](array)
    found = rows(content_type, body, profile)
    expected = parse_inputs(array.tolist(), profile["inputs"], max_rows=10)
    assert list(found) == list(expected) == ["x"]
    np.testing.assert_array_equal(found["x"], expected["x"], strict=True)
    assert found["x"].flags.c_contiguous
    assert found["x"].flags.aligned


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (NPZ, npz(mask=MASK, ids=IDS)),
        (NPZ, npz(compressed=True, ids=IDS.astype(">u2"), mask=MASK.astype("i1"))),
        (ARROW, stream({"mask": lists(MASK), "ids": fixed_lists(IDS)})),
        (ARROW, stream(*({"ids": lists(IDS[i : i + 1]), "mask": lists(MASK[i : i + 1])} for i in range(3)))),
    ],
    ids=["npz", "other integers", "arrow", "batches"],
)  # fmt: skip
def test_several_inputs(content_type: str, body: bytes) -> None:
    """Several inputs come by name, in the model's order and types."""
    found = rows(content_type, body, TOKENS)
    expected = parse_inputs({"ids": IDS.tolist(), "mask": MASK.tolist()}, TOKENS["inputs"], max_rows=10)
    assert list(found) == ["ids", "mask"]
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)


@pytest.mark.parametrize("way", ["npy", "fixed-size lists", "lists", "tensors"])
def test_rows_that_need_no_cast_are_not_copied(way: str) -> None:
    """256 rows of 784 floats are served from the body itself, and ONNX Runtime takes them so."""
    array = RNG.normal(size=(256, 784)).astype("f4")
    content_type, body = ONE[way](array)
    found = rows(content_type, body, {"inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 784]}]})["x"]
    memory = np.frombuffer(body, np.uint8)
    assert np.shares_memory(found, memory)
    assert not found.flags.writeable
    np.testing.assert_array_equal(_doubled(found), 2 * array)


def _doubled(array: Array) -> Array:
    """By a model."""
    value = helper.make_tensor_value_info
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [value("x", TensorProto.FLOAT, ["N", 784])], [value("y", TensorProto.FLOAT, ["N", 784])]
    graph = helper.make_graph([node], "g", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), session_options())
    result: Array = session.run(["y"], {"x": array})[0]
    return result


@pytest.mark.parametrize(
    ("content_type", "make"),
    [
        (FORM, lambda files: form(*file_parts(files))),
        (ARROW, lambda files: stream({"image": pa.array(files, pa.binary())})),
        (ARROW, lambda files: stream({"x": pa.array(files, pa.large_binary()), "id": pa.array(["a"] * len(files))})),
        (ARROW, lambda files: stream({"x": [{"bytes": file, "path": "p.png"} for file in files]})),
        (ARROW, lambda files: stream(*({"x": pa.array([file])} for file in files))),
    ],
    ids=["form", "binary", "large binary", "struct", "batches"],
)
def test_image_files(content_type: str, make: Callable[[list[bytes]], bytes]) -> None:
    """Image files become the pixels that the same files in Base64 become, in their order."""
    files = [image(photo()), image(photo(31, 40, seed=1), "JPEG"), image(photo(seed=2), "WEBP")]
    texts = [{"b64": base64.b64encode(file).decode()} for file in files]
    expected = parse_inputs(texts, PICTURES["inputs"], max_rows=3, preprocessing=PICTURES["preprocessing"])["x"]
    found = rows(content_type, make(files), PICTURES, max_rows=3)["x"]
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(("subtype", "format"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("bmp", "BMP")])
def test_an_image_as_the_body(subtype: str, format: str) -> None:
    """An image alone is one row, told by its content."""
    file = image(photo(), format)
    expected = rows(FORM, form(*file_parts([file])), PICTURES)["x"]
    for content_type in (f"image/{subtype}", "Image/PNG; q=1"):
        np.testing.assert_array_equal(rows(content_type, file, PICTURES)["x"], expected, strict=True)


def test_images_need_preprocessing_and_one_input() -> None:
    """A model that takes no image files says what it takes instead; bad files are named by row."""
    file = image(photo())
    bodies = [("image/png", file), (FORM, form(*file_parts([file]))), (ARROW, stream({"x": pa.array([file])}))]
    for content_type, body in bodies:
        with pytest.raises(InvalidRequest, match="no preprocessing") as caught:
            rows(content_type, body, {"inputs": PICTURES["inputs"]})
        assert caught.value.code == "no_preprocessing"
    for content_type, body in bodies[:2]:
        with pytest.raises(InvalidRequest, match="inputs 'ids', 'mask': send JSON") as caught:
            rows(content_type, body, TOKENS)
        assert caught.value.code == "wrong_inputs"
    for content_type, body in ((FORM, form(*file_parts([file, b"x"]))), (ARROW, stream({"x": pa.array([file, b"x"])}))):
        with pytest.raises(InvalidRequest, match=r"^row 1: ") as caught:
            rows(content_type, body, PICTURES)
        assert caught.value.code == "bad_image"


def test_images_beside_numbers() -> None:
    """In Arrow one input may be image files and another one numbers, of which one alone needs no list."""
    profile = {**PICTURES, "inputs": [*PICTURES["inputs"], {"name": "age", "dtype": "float32", "shape": ["N", 1]}]}
    files = [image(photo()), image(photo(seed=1))]
    found = rows(ARROW, stream({"age": pa.array([40, 41]), "x": pa.array(files)}), profile)
    assert found["age"].tolist() == [[40], [41]]
    np.testing.assert_array_equal(found["x"], rows(FORM, form(*file_parts(files)), PICTURES)["x"])


@pytest.mark.parametrize("content_type", [*formats.ACCEPTED[1:-1], FORM])
def test_an_empty_body_has_no_rows(content_type: str) -> None:
    """No format takes nothing for something."""
    with pytest.raises(InvalidRequest) as caught:
        rows(content_type, b"", PICTURES)
    assert caught.value.code in ("empty_inputs", "invalid_form")


@pytest.mark.parametrize(
    ("content_type", "make"),
    [(NPY, npy), (NPZ, lambda x: npz(x=x)), (ARROW, lambda x: stream({"x": lists(x)}))],
    ids=["npy", "npz", "arrow"],
)
@pytest.mark.parametrize(
    ("array", "kind", "code", "words"),
    [
        (FLAT[:0], InvalidRequest, "empty_inputs", "no row"),
        (np.zeros((1001, 4), "f4"), TooLarge, "too_many_rows", "1001 rows in one request; at most 1000"),
        (FLAT[:, :3], InvalidRequest, "wrong_shape", "shape [3]; needed are rows of shape [4] with dtype float32"),
        (DEEP, InvalidRequest, "wrong_shape", "shape [2, 3]"),
        (np.array([[1, 2, np.nan, 4]]), InvalidRequest, "non_finite", "row 0: NaN"),
        (np.array([[1, 2, 3, 4], [1, np.inf, 3, 4]], "f4"), InvalidRequest, "non_finite", "row 1"),
        (np.array([[1e39, 2, 3, 4]]), InvalidRequest, "non_finite", "too large for float32"),
    ],
    ids=["empty", "many", "narrow", "deep", "NaN", "infinity", "large"],
)
def test_bad_rows(
    content_type: str, make: Callable[[Array], bytes], array: Array, kind: type[Exception], code: str, words: str
) -> None:
    """Rows that do not fit are refused as those of JSON are."""
    with pytest.raises(kind) as caught:
        rows(content_type, make(array))
    found: Any = caught.value
    assert (found.code, found.field) == (code, "inputs")
    assert words in found.message


def test_rows_far_too_wide_are_no_rows_too_many() -> None:
    """A single row that was not put into a list of rows has the wrong shape, however long it is."""
    with pytest.raises(InvalidRequest, match=r"rows of shape \[\]") as caught:
        rows(NPY, npy(np.zeros(5000, "f4")))
    assert caught.value.code == "wrong_shape"


def test_unequal_inputs() -> None:
    """Inputs with different numbers of rows are told apart by name."""
    with pytest.raises(InvalidRequest, match=r"\{'ids': 3, 'mask': 2\}") as caught:
        rows(NPZ, npz(ids=IDS, mask=MASK[:2]), TOKENS)
    assert caught.value.code == "wrong_inputs"


@pytest.mark.parametrize("content_type", ["text/csv", "application/x-feather; a=b", "image/gif", "x", ""])
def test_unknown_formats(content_type: str) -> None:
    """What is not understood is answered with all that is."""
    with pytest.raises(
        UnsupportedFormat, match=r"application/json, application/x-npy, .*multipart/form-data"
    ) as caught:
        rows(content_type, b"1,2")
    assert caught.value.code == "unsupported_media_type"


def test_options_come_with_rows() -> None:
    """The query string of any format is read, and parameters of the content type are passed over."""
    arrays, options = read(f"{NPY.upper()}; charset=binary", npy(FLAT), query=b"top_k=3&coverage=0.9")
    assert options == {"top_k": 3, "coverage": 0.9}
    np.testing.assert_array_equal(arrays["x"], FLAT)
