"""Bodies that are no JSON: npy files, forms and images become the same arrays as JSON, and no header can lie."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from python_multipart.multipart import MultipartParser

from service.predict.engine.profile import ServingProfile
from service.predict.engine.session import session_options
from service.predict.formats import images, request_formats
from service.predict.formats.request_formats import array
from service.predict.formats.signature import parse_inputs
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
    raw_npy,
    read,
    rows,
)

HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
FILES = [image(photo()), image(photo(seed=1), "JPEG")]
ONE = file_parts(FILES[:1])
Array = np.ndarray
RNG = np.random.default_rng(0)
FLAT = RNG.normal(size=(5, 4)).astype("f4")
DEEP = RNG.normal(size=(5, 2, 3)).astype("f4")
#: Ways to write the rows of one input.
FORMATS_OF_ONE: dict[str, Callable[[Array], tuple[str, bytes]]] = {
    "npy": lambda x: (NPY, npy(x)),
    "npy float64": lambda x: (NPY, npy(x.astype("f8"))),
    "npy big-endian": lambda x: (NPY, npy(x.astype(">f4"))),
    "npy columns first": lambda x: (NPY, npy(np.asfortranarray(x))),
    "npy 2.0": lambda x: (NPY, npy(x, version=(2, 0))),
}


@settings(deadline=None, max_examples=150)
@given(
    arrays.arrays(
        st.one_of(arrays.boolean_dtypes(), *(kind(endianness="?") for kind in (
            arrays.integer_dtypes, arrays.unsigned_integer_dtypes, arrays.floating_dtypes))
        ).filter(lambda dtype: dtype.itemsize <= 8),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0)]),
)  # fmt: skip
def test_what_numpy_writes(given_array: Any, turned: bool, version: tuple[int, int]) -> None:
    """Arrays of any number type, byte order, memory order and shape come back to the last bit."""
    found = array(npy(np.asarray(given_array, order="F" if turned else "C"), version=version), "it")
    assert found.dtype == given_array.dtype
    assert found.shape == given_array.shape
    assert found.tobytes() == given_array.tobytes()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr':'<f4','fortran_order':False,'shape':(2,4)}",
        "{'shape': (2, 4), 'fortran_order': False, 'descr': '<f4'}   \n",
        "{\n 'descr': '<f4',\n 'fortran_order': False,\n 'shape': (2, 4,),\n}\n",
    ],
)
def test_other_writers(header: str) -> None:
    """Headers need not be laid out as numpy does, and numbers that are not aligned are copied to where they are."""
    values = np.arange(8, dtype="f4")
    found = rows(NPY, raw_npy(header, values.tobytes()))["x"]
    assert found.tolist() == values.reshape(2, 4).tolist()
    assert found.flags.aligned


def structured() -> np.ndarray:
    """Four fields side by side."""
    return np.zeros(2, dtype=[(name, "f4") for name in "abcd"])


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (npy(np.array([[1, "a", None, {}]], dtype=object)), "object_array", "pickle"),
        (pickle.dumps([[1, 2, 3, 4]]), "invalid_npy", "begins with"),
        (npy(structured()), "wrong_dtype", "side by side"),
        (raw_npy(HEADER % ("f4,f4", "(1,)"), bytes(8)), "wrong_dtype", "numbers of at most 64 bits"),
        (npy(np.zeros((1, 4), "U3")), "wrong_dtype", "<U3"),
        (npy(np.zeros((1, 4), "S3")), "wrong_dtype", "S3"),
        (npy(np.zeros((1, 4), "M8[ns]")), "wrong_dtype", "datetime64[ns]"),
        (npy(np.zeros((1, 4), "c8")), "wrong_dtype", "complex64"),
        (npy(np.zeros((1, 4), np.longdouble)), "wrong_dtype", "at most 64 bits"),
        (raw_npy(HEADER % ("V4", "(1, 4)"), bytes(16)), "wrong_dtype", "numbers"),
        (npy(np.ones((1, 4), bool)), "wrong_dtype", "true/false"),
        (raw_npy(HEADER % ("|b1", "(1, 4)"), b"\1\0\2\1"), "invalid_npy", "neither true nor false"),
        (raw_npy(HEADER % ("<f4", "(2, 4)"), bytes(31)), "invalid_npy", "32 bytes), but 31"),
        (raw_npy(HEADER % ("<f4", "(2, 4)"), bytes(33)), "invalid_npy", "but 33 bytes follow"),
        (raw_npy(HEADER % ("<f4", "(2, 4000000000)"), bytes(32)), "invalid_npy", "32000000000 bytes"),
        (raw_npy(HEADER % ("<f4", "(-2, -4)"), bytes(32)), "invalid_npy", "no array has the shape"),
        (raw_npy(HEADER % ("<f4", f"({'1,' * 40})"), bytes(4)), "invalid_npy", "no array has the shape"),
        (raw_npy(HEADER % ("<f4", f"(0, {10**30}, {10**30})")), "invalid_npy", "no array has the shape"),
        (raw_npy(HEADER % ("<f4", "(2L, 4L)"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy(HEADER % ("<f4", "(2, 2 + 2)"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy(HEADER % ("<f4", "__import__('os')"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy(HEADER % ("<f\\x34", "(2, 4)"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy("(" * 900 + ")" * 900, bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy("{'descr': '<f4', 'shape': (2, 4)}", bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy(HEADER % ("nonsense", "(2, 4)"), bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy(b"\xff" * 40, bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy("", bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy(HEADER % ("<f4", "(2, 4)"), claims=2000), "invalid_npy", "are there"),
        (raw_npy(" " * 5000, bytes(8000)), "invalid_npy", "at most 4096"),
        (raw_npy("{}", version=b"\x02\x00", claims=1 << 31), "invalid_npy", "at most 4096"),
        (raw_npy("{}", version=b"\x03\x00", claims=2), "invalid_npy", "3.0"),
        (raw_npy("{}", version=b"\x00\x00"), "invalid_npy", "0.0"),
        (b"\x93NUMPY\x01", "invalid_npy", "begins with"),
        (b"[[1, 2, 3, 4]]", "invalid_npy", "begins with"),
    ],
)
def test_bad_files(body: bytes, code: str, words: str) -> None:
    """Pickles, structures, text and headers that lie are refused in words; nothing is made of what they claim."""
    with pytest.raises(InvalidRequest) as caught:
        rows(NPY, body)
    assert (caught.value.code, caught.value.field) == (code, "inputs")
    assert words in caught.value.message


def test_npy_is_for_one_input() -> None:
    """Several inputs do not fit into one array; the answer says what they fit into."""
    with pytest.raises(InvalidRequest, match="'ids', 'mask': send binary tensors by name") as caught:
        rows(NPY, npy(np.zeros((1, 2), int)), TOKENS)
    assert caught.value.code == "wrong_inputs"


def test_rows_of_no_values() -> None:
    """Where the model leaves a size open it may be zero, for integers too."""
    found = rows(NPY, npy(np.zeros((2, 0), "i2")), {"inputs": TOKENS["inputs"][:1]})["ids"]
    assert (found.shape, found.dtype) == ((2, 0), np.int64)


def test_what_a_client_sends() -> None:
    """A form of httpx, with files of any names and types and options as fields, is read."""
    files = [("image", ("ä.png", FILES[0], "image/png")), ("image", ("b", FILES[1], "application/octet-stream"))]
    request = httpx.Request("POST", "http://service", files=files, data={"top_k": "2", "max_error": '{"class": 0.1}'})
    arrays, options = read(request.headers["content-type"], request.read(), PICTURES)
    np.testing.assert_array_equal(arrays["x"], rows(FORM, form(*file_parts(FILES)), PICTURES)["x"])
    assert options == {"top_k": 2, "max_error": {"class": 0.1}}


def test_names_that_are_not_ascii() -> None:
    """A file is a file also where its name is written as mails write it."""
    parts = [("name=\"image\"; filename*=UTF-8''%C3%A4.png", FILES[0]), ('name="é"; filename="\u00e4"', FILES[1])]
    np.testing.assert_array_equal(
        rows(FORM, form(*parts), PICTURES)["x"], rows(FORM, form(*file_parts(FILES)), PICTURES)["x"]
    )


@pytest.mark.parametrize("head", ['name="options"', 'name="options"; filename="blob"'])
def test_options_as_a_part(head: str) -> None:
    """One part holds all options, also where the client sends it as a file; null is as good as nothing."""
    part = (head, b'{"top_k": 3, "coverage": 0.9, "decision": {"threshold": 0.5}, "max_error": null}')
    for parts in ([part, *ONE], [*ONE, part]):
        arrays, options = read(FORM, form(*parts), PICTURES, query=b"abstain_below=0.5")
        assert len(arrays["x"]) == 1
        assert options == {"top_k": 3, "coverage": 0.9, "decision": {"threshold": 0.5}, "abstain_below": 0.5}


@pytest.mark.parametrize("boundary", ["a", "b" * 70, "----WebKitFormBoundary7MA4YWxk", "it's(a)+_,-./:=?boundary"])
@pytest.mark.parametrize("quoted", [True, False])
def test_boundaries(boundary: str, quoted: bool) -> None:
    """Any boundary of the standard parts the form, quoted or not, and no content is cut by what resembles it."""
    content_type = f'multipart/form-data; charset=utf-8; Boundary="{boundary}"' if quoted else ""
    content_type = content_type or f"Multipart/Form-Data; boundary={boundary}"
    tail = b"\r\n--" + boundary.encode()[:-1] + b"!\r\n-\r\n"
    found = rows(content_type, form(*file_parts([FILES[0] + tail, FILES[1]]), boundary=boundary), PICTURES)["x"]
    np.testing.assert_array_equal(found, rows(FORM, form(*file_parts(FILES)), PICTURES)["x"])


@pytest.mark.parametrize(
    ("body", "code", "field", "words"),
    [
        (form(*ONE, end=False), "invalid_form", "inputs", "cut off"),
        (form(*ONE)[:-5], "invalid_form", "inputs", "cut off"),
        (form(*ONE, boundary="Other"), "invalid_form", "inputs", "boundary character"),
        (b"", "invalid_form", "inputs", "cut off"),
        (b"--XyZ\r\n\r\n\r\n--XyZ--", "invalid_request", "", "'' is no option"),
        (form(("", FILES[0])), "invalid_form", "inputs", "Content-Disposition"),
        (form(('filename="a.png"', FILES[0])), "invalid_form", "inputs", "Content-Disposition"),
        (b'--XyZ\r\nContent-Disposition: x; name="a"\r\n\r\n\r\n--XyZ--', "invalid_form", "inputs", "not form-data"),
        (form(('name="a"\r\nContent-Disposition: form-data; name="b"', b"")), "invalid_form", "inputs", "one name"),
        (form((f'name="a"; filename="{"b" * 5000}"', b"")), "invalid_form", "inputs", "header size"),
        (form(('name="a"' + "\r\nX: y" * 20, b"")), "invalid_form", "inputs", "header count"),
        (form(('name="a"\r\nX y: z', b"")), "invalid_form", "inputs", "invalid character"),
        (form(), "empty_inputs", "inputs", "no row"),
        (form(('name="top_k"', b"3")), "empty_inputs", "inputs", "no row"),
        (form(*ONE, ('name="topk"', b"3")), "invalid_request", "topk", "'topk' is no option; known are top_k, abstain"),
        (form(*ONE, ('name="image"', FILES[0])), "invalid_request", "image", "UTF-8"),
        (form(*ONE, ('name="top_k"', b"three")), "invalid_request", "top_k", "'three' is no JSON"),
        (form(*ONE, ('name="top_k"', b'{"a": 1}')), "invalid_request", "top_k", "expected a number"),
        (form(*ONE, ('name="top_k"', b"3"), ('name="top_k"', b"3")), "invalid_request", "top_k", "more than once"),
        (form(*ONE, ('name="top_k"', b"3"), ('name="options"', b'{"top_k":1}')), "invalid_request", "top_k", "once"),
        (form(*ONE, ('name="options"', b"[1]")), "invalid_request", "options", "expected a JSON object"),
        (form(*ONE, ('name="options"', b"{")), "invalid_request", "options", "is no JSON"),
        (form(*ONE, ('name="options"', b'{"inputs":[]}')), "invalid_request", "inputs", "'inputs' is no option"),
        (form(*ONE, ('name="options"', b'{"options":{}}')), "invalid_request", "options", "'options' is no option"),
        (form(*file_parts([FILES[0], b"GIF89a"])), "bad_image", "inputs", "row 1: "),
        (form(*file_parts([b""])), "bad_image", "inputs", "row 0: "),
    ],
)  # fmt: skip
def test_bad_forms(body: bytes, code: str, field: str, words: str) -> None:
    """Forms that are cut off, have parts without names, or fields that mean nothing are refused with what is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        rows(FORM, body, PICTURES)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x"]
)
def test_a_form_needs_a_boundary(content_type: str) -> None:
    """Without it no part can be found."""
    with pytest.raises(InvalidRequest, match="names no boundary") as caught:
        rows(content_type, form(*ONE), PICTURES)
    assert caught.value.code == "invalid_form"


def test_an_option_in_query_and_form() -> None:
    """An option with two values is refused, and neither is guessed."""
    with pytest.raises(InvalidRequest, match="top_k: it is given more than once"):
        rows(FORM, form(*ONE, ('name="top_k"', b"3")), PICTURES, query=b"top_k=3")


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, parts and bytes of a file are limited, parts before they are looked at."""
    assert len(rows(FORM, form(*file_parts(FILES)), PICTURES, max_rows=2)["x"]) == 2
    with pytest.raises(TooLarge, match="2 rows in one request; at most 1"):
        rows(FORM, form(*file_parts(FILES)), PICTURES, max_rows=1)
    many = b"--XyZ\r\n" * 2000
    with pytest.raises(TooLarge, match="more than 1032 parts; at most 1000 files") as caught:
        rows(FORM, many, PICTURES)
    assert caught.value.code == "too_many_rows"
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", len(FILES[0]) - 1)
    with pytest.raises(InvalidRequest, match="row 0: the file has more than"):
        rows(FORM, form(*file_parts(FILES)), PICTURES)


def test_megabytes_of_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-alikes of the beginning of a part are counted before the parser, which is slow there, walks through them."""
    monkeypatch.setattr(MultipartParser, "write", pytest.fail)
    for piece in (b"\r\n--XyZ", b"--XyZ", b"\r\n--XyZ!", b"--XyZ\r\n\r\n"):
        with pytest.raises(TooLarge, match="more than 1032 parts"):
            rows(FORM, piece * 100_000, PICTURES)
    monkeypatch.undo()
    for piece in (b"\r\n", b"\r", b"\n", b"-", b"--Xy", b"\r\n--Xy", b":", b"a"):
        for before in (b"", form(*ONE, end=False)):
            with pytest.raises(InvalidRequest) as caught:
                rows(FORM, before + piece * 100_000, PICTURES)
            assert caught.value.code == "invalid_form"


@pytest.mark.parametrize("way", FORMATS_OF_ONE)
@pytest.mark.parametrize(("profile", "array"), [(TABLE, FLAT), (GRID, DEEP)], ids=["flat", "deep"])
def test_one_input(way: str, profile: Json, array: Array) -> None:
    """Whatever the rows of a single input are written in, they are what JSON says, contiguous and aligned."""
    content_type, body = FORMATS_OF_ONE[way](array)
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
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))
    assert not found.flags.writeable
    np.testing.assert_array_equal(_doubled(found), 2 * array)


def _doubled(array: Array) -> Array:
    """By a model."""
    value = helper.make_tensor_value_info
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [value("x", TensorProto.FLOAT, ["N", 784])], [value("y", TensorProto.FLOAT, ["N", 784])]
    graph = helper.make_graph([node], "g", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    result: Array = ort.InferenceSession(model.SerializeToString(), session_options()).run(["y"], {"x": array})[0]
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
    """An image alone is one row, known by its content."""
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


@pytest.mark.parametrize("content_type", [*request_formats.ACCEPTED[1:-1], FORM])
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
        (FLAT[:, :3], InvalidRequest, "wrong_shape", "shape [3]; expected rows of shape [4] with dtype float32"),
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
    """An unknown format is answered with all known ones."""
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
