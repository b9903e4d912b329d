"""The same rows in any format are the same arrays, as the engine wants them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.inference import formats
from service.inference.profile import ServingProfile
from service.inference.runtime import session_options
from service.inference.signature import parse_inputs
from service.registry.errors import InvalidRequest, TooLarge, UnsupportedFormat
from tests.corpus.images import image, photo
from tests.helpers.predict_bodies import (
    FORM,
    GRID,
    NPY,
    PICTURES,
    TABLE,
    TOKENS,
    Json,
    file_parts,
    form,
    npy,
    read,
    rows,
)

Array = np.ndarray
RNG = np.random.default_rng(0)
FLAT = RNG.normal(size=(5, 4)).astype("f4")
DEEP = RNG.normal(size=(5, 2, 3)).astype("f4")

#: Ways to write the rows of one input.
ONE: dict[str, Callable[[Array], tuple[str, bytes]]] = {
    "npy": lambda x: (NPY, npy(x)),
    "npy float64": lambda x: (NPY, npy(x.astype("f8"))),
    "npy big-endian": lambda x: (NPY, npy(x.astype(">f4"))),
    "npy columns first": lambda x: (NPY, npy(np.asfortranarray(x))),
    "npy 2.0": lambda x: (NPY, npy(x, version=(2, 0))),
}


@pytest.mark.parametrize("way", ONE)
@pytest.mark.parametrize(("profile", "array"), [(TABLE, FLAT), (GRID, DEEP)], ids=["flat", "deep"])
def test_one_input(way: str, profile: Json, array: Array) -> None:
    """Whatever the rows of a single input are written in, they are what JSON says, contiguous and aligned."""
    content_type, body = ONE[way](array)
    found = rows(content_type, body, profile)
    expected = parse_inputs(array.tolist(), ServingProfile.of(profile), max_rows=10)
    assert list(found) == list(expected) == ["x"]
    np.testing.assert_array_equal(found["x"], expected["x"], strict=True)
    assert found["x"].flags.c_contiguous
    assert found["x"].flags.aligned


def test_rows_that_need_no_cast_are_not_copied() -> None:
    """256 rows of 784 floats are served from the body itself, and ONNX Runtime takes them so."""
    array = RNG.normal(size=(256, 784)).astype("f4")
    body = npy(array)
    found = rows(NPY, body, {"inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 784]}]})["x"]
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


def test_image_files() -> None:
    """Image files become the pixels that the same files in Base64 become, in their order."""
    files = [image(photo()), image(photo(31, 40, seed=1), "JPEG"), image(photo(seed=2), "WEBP")]
    texts = [{"b64": base64.b64encode(file).decode()} for file in files]
    expected = parse_inputs(texts, ServingProfile.of(PICTURES), max_rows=3)["x"]
    found = rows(FORM, form(*file_parts(files)), PICTURES, max_rows=3)["x"]
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
    bodies = [("image/png", file), (FORM, form(*file_parts([file])))]
    for content_type, body in bodies:
        with pytest.raises(InvalidRequest, match="no preprocessing") as caught:
            rows(content_type, body, {"inputs": PICTURES["inputs"]})
        assert caught.value.code == "no_preprocessing"
    for content_type, body in bodies:
        with pytest.raises(InvalidRequest, match="inputs 'ids', 'mask': send JSON") as caught:
            rows(content_type, body, TOKENS)
        assert caught.value.code == "wrong_inputs"
    with pytest.raises(InvalidRequest, match=r"^row 1: ") as caught:
        rows(FORM, form(*file_parts([file, b"x"])), PICTURES)
    assert caught.value.code == "bad_image"


@pytest.mark.parametrize("content_type", [*formats.ACCEPTED[1:-1], FORM])
def test_an_empty_body_has_no_rows(content_type: str) -> None:
    """No format takes nothing for something."""
    with pytest.raises(InvalidRequest) as caught:
        rows(content_type, b"", PICTURES)
    assert caught.value.code in ("empty_inputs", "invalid_form")


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
def test_bad_rows(array: Array, kind: type[Exception], code: str, words: str) -> None:
    """Rows that do not fit are refused as those of JSON are."""
    with pytest.raises(kind) as caught:
        rows(NPY, npy(array))
    found: Any = caught.value
    assert (found.code, found.field) == (code, "inputs")
    assert words in found.message


def test_rows_far_too_wide_are_no_rows_too_many() -> None:
    """A single row that was not put into a list of rows has the wrong shape, however long it is."""
    with pytest.raises(InvalidRequest, match=r"rows of shape \[\]") as caught:
        rows(NPY, npy(np.zeros(5000, "f4")))
    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize(
    "content_type", ["text/csv", "application/x-npz", "application/vnd.apache.arrow.stream; a=b", "image/gif", "x", ""]
)
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
