"""Requests of the protocol: what is right becomes arrays, what is not is refused with what was found."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.predict.formats.oip_requests import InferenceRequest, aligned, decode
from service.predict.formats.oip_tensors import DATATYPES
from service.registry.errors import InvalidRequest, TooLarge
from tests.corpus.images import blank_png
from tests.helpers import Json
from tests.helpers.oip_models import profile_of

VALUES = [[1, 2.5, -3], [4, 5, 6]]
TENSOR: Json = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "data": [VALUES]}
SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
SHAPES = st.lists(st.integers(-1, 4) | st.sampled_from([2**31, 2**63, 2**70]), max_size=4) | JSON
BYTE_SIZES = st.fixed_dictionaries({"binary_data_size": st.integers(-1, 70)}) | JSON
ANY_TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from("xyz") | JSON, "shape": SHAPES, "datatype": st.sampled_from([*DATATYPES, "BYTES"]) | JSON},
    optional={"data": JSON, "parameters": BYTE_SIZES},
)
ANY_OUTPUT = st.fixed_dictionaries({"name": JSON}, optional={"parameters": JSON}) | JSON
ANY_REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(ANY_TENSOR, max_size=3) | JSON},
    optional={"id": JSON, "parameters": JSON, "outputs": st.lists(ANY_OUTPUT, max_size=2) | JSON},
)
PREPROCESSING = {"resize": 8, "channels": 1, "layout": "NCHW"}
IMAGE_INPUT = [{"name": "x", "dtype": "float32", "shape": ["N", 1, 8, 8]}]


def read(*inputs: Json, tail: bytes = b"", **more: Any) -> InferenceRequest:
    """Decode a request with these inputs; `tail` is what follows the JSON."""
    header = json.dumps({"inputs": list(inputs), **more}).encode()
    return decode(header + tail, len(header) if tail else None)


def refused(*inputs: Json, tail: bytes = b"", **more: Any) -> InvalidRequest:
    """The error for a request that is refused."""
    with pytest.raises(InvalidRequest) as caught:
        read(*inputs, tail=tail, **more)
    return caught.value


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([1, 2, 3], [VALUES]),
        ([1, 2, 3], [1, 2.5, -3, 4, 5, 6]),
        ([1, 2, 3], [[1, 2.5, -3, 4, 5, 6]]),
        ([1, 2, 3], VALUES),
        ([2, 3], [1, 2.5, -3, 4, 5, 6]),
    ],
    ids=["nested", "flat", "row flat", "without the one", "matrix"],
)
def test_nested_and_flat_values(shape: list[int], data: Any) -> None:
    """Lists in row-major order, however deep, become one array of the announced shape and type."""
    array = read({**TENSOR, "shape": shape, "data": data}).inputs["x"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.array(VALUES, np.float32).reshape(shape))


@pytest.mark.parametrize(
    ("datatype", "dtype", "values"),
    [
        ("BOOL", "bool", [True, False]),
        ("INT8", "int8", [-128, 127]),
        ("INT16", "int16", [-(2**15), 2**15 - 1]),
        ("INT32", "int32", [-(2**31), 2**31 - 1]),
        ("INT64", "int64", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint8", [0, 255]),
        ("UINT16", "uint16", [0, 2**16 - 1]),
        ("UINT32", "uint32", [0, 2**32 - 1]),
        ("UINT64", "uint64", [1, 2**64 - 1]),
        ("FP16", "float16", [-65504.0, 0.1]),
        ("FP32", "float32", [-3.4e38, 0.1]),
        ("FP64", "float64", [-1.7e308, 0.1]),
    ],
)
def test_every_type_in_both_forms(datatype: str, dtype: str, values: list[Any]) -> None:
    """The extremes of every type arrive exactly, from JSON and from bytes."""
    expected = np.array(values, dtype=dtype)
    tensor = {"name": "x", "shape": [2], "datatype": datatype}
    raw = expected.tobytes()
    in_json = read({**tensor, "data": values}).inputs["x"]
    for array in (in_json, read({**tensor, "parameters": {"binary_data_size": len(raw)}}, tail=raw).inputs["x"]):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_bytes_in_both_forms() -> None:
    """Texts of JSON are UTF-8; binary ones have their length before them, may be empty and hold anything."""
    tensor = {"name": "x", "shape": [3, 1], "datatype": "BYTES"}
    assert read({**tensor, "data": [["a"], ["é"], [""]]}).inputs["x"].tolist() == [[b"a"], ["é".encode()], [b""]]
    contents = [b"\x00\xff", b"", b"abc"]
    raw = b"".join(len(content).to_bytes(4, "little") + content for content in contents)
    found = read({**tensor, "parameters": {"binary_data_size": len(raw)}}, tail=raw).inputs["x"]
    assert found.tolist() == [[content] for content in contents]


@pytest.mark.parametrize("padding", range(8))
def test_binary_values_are_aligned_in_memory(padding: int) -> None:
    """Wherever the JSON ends, the values can be read in place by native code; if they lie well, nothing is copied."""
    values = np.arange(4, dtype=np.float64)
    tensor = {"name": "x", "shape": [4], "datatype": "FP64", "parameters": {"binary_data_size": 32}}
    header = json.dumps({"inputs": [tensor]}).encode() + b" " * padding
    body = header + values.tobytes()
    array = decode(body, len(header)).inputs["x"]
    assert array.flags.aligned
    assert array.tolist() == values.tolist()
    start = np.frombuffer(body, np.uint8).ctypes.data + len(header)
    assert (array.ctypes.data == start) == (start % array.itemsize == 0)


@pytest.mark.parametrize("nothing", [{}, {"id": None, "parameters": None, "outputs": None}, {"outputs": []}])
def test_what_is_not_said(nothing: Json) -> None:
    """A value that a client leaves out, or gives as null as some do, has its default."""
    found = read({**TENSOR, "parameters": None}, **nothing)
    assert (found.id, found.wanted, found.binary, found.parameters) == (None, None, False, {})


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"data": [[1, 2, 3], [4, 5]]}, "wrong_shape", "ragged"),
        ({"data": [[1, 2, 3], 4, 5, 6]}, "wrong_shape", "mixes"),
        ({"data": [1, 2, 3, [4, 5, 6]]}, "wrong_shape", "holds 4"),
        ({"data": [1, 2, 3, 4, 5, [6]]}, "wrong_dtype", "value 5"),
        ({"data": [1, 2, 3]}, "wrong_shape", "needs 6 values, data holds 3"),
        ({"data": []}, "wrong_shape", "holds 0"),
        ({"data": [[1, 2], [3, 4], [5, 6]]}, "wrong_shape", "nested as [3, 2]"),
        ({"data": 7}, "wrong_shape", "must be a list"),
        ({"data": {"b": 1}}, "wrong_shape", "must be a list"),
        ({"data": [1, 2, 3, 4, 5, "6"]}, "wrong_dtype", "value 5"),
        ({"data": [1, 2, 3, 4, None, 6]}, "wrong_dtype", "value 4"),
        ({"data": [1, 2, 3, {}, 5, 6]}, "wrong_dtype", "an object"),
        ({"data": [True] * 6}, "wrong_dtype", "true/false"),
        ({"data": [1, 2, 3, 4, 5, 1e39]}, "wrong_dtype", "1e+39"),
        ({"data": [1.5] * 6, "datatype": "INT32"}, "wrong_dtype", "1.5"),
        ({"data": [1, 2, 3, 4, 5, 256], "datatype": "UINT8"}, "wrong_dtype", "value 5 of data is not: found 256"),
        ({"data": [1, 2, 3, 4, 5, -1], "datatype": "UINT64"}, "wrong_dtype", "-1"),
        ({"data": [1, 2, 3, 4, 5, 2**70], "datatype": "INT64"}, "wrong_dtype", "value 5"),
        ({"data": [True, False, True, True, True, 1], "datatype": "BOOL"}, "wrong_dtype", "value 5"),
        ({"data": ["a", "b", "c", "d", "e", 6], "datatype": "BYTES"}, "wrong_dtype", "value 5"),
        ({"data": None}, "invalid_request", "neither"),
        ({"parameters": {"binary_data_size": 24}}, "invalid_request", "both"),
        ({"data": None, "parameters": {"binary_data_size": 24}}, "wrong_size", "Content-Length is not given"),
        ({"parameters": {"shared_memory_region": "r"}}, "invalid_request", "shared memory"),
        ({"parameters": {"a": [1]}}, "invalid_request", "'a'"),
        ({"parameters": 7}, "invalid_request", "parameters"),
        ({"datatype": "BF16"}, "unsupported_datatype", "send FP32"),
        ({"datatype": "FP8"}, "unsupported_datatype", "known are BOOL"),
        ({"datatype": "fp32"}, "unsupported_datatype", "'fp32'"),
        ({"datatype": None}, "unsupported_datatype", "null"),
        ({"datatype": ["FP32"]}, "unsupported_datatype", "FP32"),
        ({"shape": [-1, 2, 3]}, "wrong_shape", "not negative"),
        ({"shape": [True, 2, 3]}, "wrong_shape", "whole numbers"),
        ({"shape": [1.0, 2, 3]}, "wrong_shape", "whole numbers"),
        ({"shape": None}, "wrong_shape", "null"),
        ({"shape": "123"}, "wrong_shape", "123"),
        ({"shape": [1] * 33}, "wrong_shape", "33 dimensions"),
        ({"shape": [2**62, 2**62]}, "wrong_shape", "holds 6"),
        ({"shape": [10**30]}, "wrong_shape", "whole numbers"),
        ({"shape": [10**15, 6]}, "wrong_shape", "needs 6000000000000000 values, data holds 6"),
        ({"shape": [6], "data": [VALUES]}, "wrong_shape", "nested as [1, 2, 3]"),
        ({"shape": [0, 2**62, 2**62], "data": []}, "wrong_shape", "impossible"),
        ({"name": None}, "invalid_request", 'with a "name"'),
        ({"name": 7}, "invalid_request", 'with a "name"'),
    ],
)
def test_bad_tensors(change: Json, code: str, words: str) -> None:
    """Each kind of bad tensor has a code, and words that say what was found."""
    error = refused({**TENSOR, **change})
    assert error.code == code
    assert words in error.message


@pytest.mark.parametrize(
    ("tensor", "tail", "words"),
    [
        ({"parameters": {"binary_data_size": 20}}, bytes(20), "needs 24 bytes, binary_data_size is 20"),
        ({"parameters": {"binary_data_size": 24}}, bytes(23), "23 bytes are left behind the JSON"),
        ({"parameters": {"binary_data_size": 24}}, bytes(25), "1 bytes are left at the end"),
        ({"parameters": {"binary_data_size": -1}}, bytes(24), "-1"),
        ({"parameters": {"binary_data_size": "24"}}, bytes(24), "'24'"),
        ({"parameters": {"binary_data_size": True}}, bytes(1), "True"),
        ({"parameters": {"binary_data_size": 24}, "shape": [2**62, 2**62]}, bytes(24), "needs"),
        ({"parameters": {"binary_data_size": 8}, "shape": [10**12], "datatype": "BYTES"}, bytes(8), "and more"),
        ({"parameters": {"binary_data_size": 8}, "shape": [1], "datatype": "BYTES"}, bytes(8), "4 bytes are left"),
        ({"parameters": {"binary_data_size": 5}, "shape": [1], "datatype": "BYTES"}, b"\xff\xff\xff\xff1", "behind"),
        (
            {"parameters": {"binary_data_size": 9}, "shape": [2], "datatype": "BYTES"},
            b"\3\0\0\0abc\0\0",
            "value 1 of 2",
        ),
        ({"parameters": {"binary_data_size": 6}, "datatype": "BOOL"}, b"\0\1\0\1\0\2", "0 or 1"),
    ],
)
def test_bad_bytes(tensor: Json, tail: bytes, words: str) -> None:
    """Bytes that are missing, left over, or not what shape and type say are refused; nothing is read beyond them."""
    error = refused({"name": "x", "shape": [1, 2, 3], "datatype": "FP32", **tensor}, tail=tail)
    assert error.code in ("wrong_size", "wrong_dtype")
    assert words in error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "JSON object"),
        (b"7", "JSON object"),
        (b"{}", '"inputs" must be a list'),
        (b'{"inputs": {}}', '"inputs" must be a list'),
        (b'{"inputs": [7]}', "input 0"),
        (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 900 + b"]" * 900 + b"}]}", "holds 0"),
        (b'{"inputs": [], "id": 7}', '"id"'),
        (b'{"inputs": [], "parameters": []}', '"parameters"'),
        (b'{"inputs": [], "parameters": {"a": null}}', "'a'"),
        (b'{"inputs": [], "parameters": {"a": {}}}', "'a'"),
        (b'{"inputs": [], "parameters": {"binary_data_output": 1}}', "true or false"),
        (b'{"inputs": [], "outputs": {}}', '"outputs" must be a list'),
        (b'{"inputs": [], "outputs": ["a"]}', "output 0"),
        (b'{"inputs": [], "outputs": [{"name": "a"}, {"name": "a"}]}', "'a' is there twice"),
        (b'{"inputs": [], "outputs": [{"name": "a", "parameters": {"binary_data": "yes"}}]}', "true or false"),
        (b'{"inputs": [], "outputs": [{"name": "a", "parameters": {"classification": -1}}]}', "number of classes"),
        (b'{"inputs": [], "outputs": [{"name": "a", "parameters": {"classification": true}}]}', "number of classes"),
        (b'{"inputs": [], "outputs": [{"name": "a", "parameters": {"shared_memory_region": "r"}}]}', "shared memory"),
    ],
)
def test_bad_requests(content: bytes, words: str) -> None:
    """A body that is no request at all is reported as such."""
    with pytest.raises(InvalidRequest) as caught:
        decode(content, None)
    assert words in caught.value.message


@pytest.mark.parametrize("length", [-1, 3])
def test_impossible_header_lengths(length: int) -> None:
    """The JSON cannot be longer than the body."""
    with pytest.raises(InvalidRequest, match="the body has 2 bytes"):
        decode(b"{}", length)


def test_inputs_that_are_there_twice() -> None:
    """No input is silently the last of its name."""
    assert "'x' is there twice" in refused(TENSOR, TENSOR).message


@pytest.mark.parametrize(
    ("data", "number", "what"), [("[1, NaN, 3]", 1, "nan"), ("[[1], [2], [-Infinity]]", 2, "-inf")]
)
def test_numbers_that_json_does_not_have(data: str, number: int, what: str) -> None:
    """NaN and infinity, which some clients write all the same, are refused with the place where they stand."""
    body = f'{{"inputs": [{{"name": "x", "shape": [3], "datatype": "FP32", "data": {data}}}]}}'
    with pytest.raises(InvalidRequest) as caught:
        decode(body.encode(), None)
    assert caught.value.code == "non_finite"
    assert f"input 'x': value {number} of data is {what}" in caught.value.message


def test_a_long_text_beside_many_numbers_takes_no_memory() -> None:
    """A text of a million letters among numbers is refused at once, not copied for every number."""
    error = refused({**TENSOR, "shape": [100_000], "data": [1] * 99_999 + ["x" * 1_000_000]})
    assert error.code == "wrong_dtype"
    assert len(error.message) < 300


@given(ANY_REQUEST | JSON, st.binary(max_size=80), st.none() | st.integers(-1, 200) | st.just("true length"))
@settings(deadline=None, max_examples=400)
def test_whatever_comes_is_read_or_refused(content: Any, tail: bytes, length: Any) -> None:
    """No body brings forth anything but a request whose arrays are what was announced, or a short refusal in words."""
    header = json.dumps(content).encode()
    body = header + tail
    refusal: InvalidRequest | TooLarge | None = None
    try:
        found = decode(body, len(header) if length == "true length" else length)
        announced = {item["name"]: tuple(item["shape"]) for item in content["inputs"]}
        assert {name: array.shape for name, array in found.inputs.items()} == announced
        aligned(found, profile_of(), max_rows=4)
    except (InvalidRequest, TooLarge) as error:
        refusal = error
    assert refusal is None or 0 < len(refusal.message) < 600


@pytest.mark.parametrize("binary", [True, False])
def test_more_texts_than_rows_can_be(binary: bool) -> None:
    """Millions of empty texts, which would have to be read one by one, are refused before that."""
    count = 2_000_000
    tensor: Json = {"name": "x", "shape": [count], "datatype": "BYTES"}
    with pytest.raises(TooLarge, match="2000000 values of BYTES; at most 65536"):
        if binary:
            read({**tensor, "parameters": {"binary_data_size": 4 * count}}, tail=bytes(4 * count))
        else:
            read({**tensor, "data": [""] * count})


def align(*inputs: Json, max_rows: int = 4, tail: bytes = b"", **changes: Any) -> dict[str, np.ndarray]:
    """The inputs for the model."""
    return aligned(read(*inputs, tail=tail), profile_of(**changes), max_rows=max_rows)


@pytest.mark.parametrize("datatype", ["FP16", "FP64", "INT8", "INT64", "UINT8"])
def test_numbers_are_cast(datatype: str) -> None:
    """Any number type serves a float input, unscaled."""
    found = align({**TENSOR, "datatype": datatype, "data": [1, 2, 3, 4, 5, 6]})
    assert found["x"].dtype == np.float32
    assert found["x"].ravel().tolist() == [1, 2, 3, 4, 5, 6]


def test_inputs_come_in_the_models_order() -> None:
    """Inputs come in the model's order, whatever order they were sent in."""
    specs = [{"name": name, "dtype": "int64", "shape": ["N", "T"]} for name in ("ids", "mask")]
    tensors = [{"name": name, "shape": [1, 2], "datatype": "INT32", "data": [5, 6]} for name in ("mask", "ids")]
    found = align(*tensors, inputs=specs)
    assert list(found) == ["ids", "mask"]
    assert found["ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"name": "y"}, "wrong_inputs", "the model's inputs are 'x' FP32 [N, 2, 3]; found are 'y'"),
        ({"shape": [2, 3]}, "wrong_shape", "[2, 3]"),
        ({"shape": [6], "data": [1, 2, 3, 4, 5, 6]}, "wrong_shape", "[2, 3]"),
        ({"shape": [], "data": [1]}, "wrong_shape", "[2, 3]"),
        ({"shape": [0, 2, 3], "data": []}, "empty_inputs", "at least one"),
        ({"datatype": "BOOL", "data": [True] * 6}, "wrong_dtype", "true/false"),
        ({"datatype": "FP64", "data": [1e300] * 6}, "non_finite", "too large"),
        ({"datatype": "BYTES", "data": ["a"], "shape": [1]}, "no_preprocessing", "no preprocessing"),
    ],
)
def test_inputs_that_the_model_does_not_take(change: Json, code: str, words: str) -> None:
    """Names, shapes and types that are not the model's are refused with those that are."""
    with pytest.raises(InvalidRequest) as caught:
        align({**TENSOR, **change}, max_rows=9)
    assert (caught.value.code, caught.value.field) == (code, "inputs")
    assert words in caught.value.message


def test_missing_and_surplus_inputs() -> None:
    """Both errors say what is needed and what was found."""
    with pytest.raises(InvalidRequest, match=r"'x' FP32 \[N, 2, 3\]; found are none"):
        align()
    with pytest.raises(InvalidRequest, match="found are 'x', 'z'"):
        align(TENSOR, {**TENSOR, "name": "z"})


def test_rows_are_counted() -> None:
    """More rows than allowed are distinguished from bad ones; inputs of different lengths are bad."""
    tensor = {**TENSOR, "shape": [5, 2, 3], "data": [0] * 30}
    assert len(align(tensor, max_rows=5)["x"]) == 5
    with pytest.raises(TooLarge):
        align(tensor)
    specs = [{"name": name, "dtype": "float32", "shape": ["N"]} for name in "ab"]
    tensors = [{"name": name, "shape": [n], "datatype": "FP32", "data": [0] * n} for name, n in (("a", 1), ("b", 2))]
    with pytest.raises(InvalidRequest, match="differ in their number of rows"):
        align(*tensors, inputs=specs)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("form", ["base64", "binary", "binary base64"])
def test_image_files(shape: list[int], form: str) -> None:
    """BYTES are image files where the model has preprocessing: as they are, or in Base64 as JSON needs it."""
    png = blank_png(8)
    tensor: Json = {"name": "x", "shape": shape, "datatype": "BYTES"}
    text = base64.b64encode(png)
    content = png if form == "binary" else text
    raw = (len(content).to_bytes(4, "little") + content) * 2
    if form == "base64":
        found = align({**tensor, "data": [text.decode()] * 2}, inputs=IMAGE_INPUT, preprocessing=PREPROCESSING)
    else:
        tensor["parameters"] = {"binary_data_size": len(raw)}
        found = align(tensor, tail=raw, inputs=IMAGE_INPUT, preprocessing=PREPROCESSING)
    assert (found["x"].shape, found["x"].dtype) == ((2, 1, 8, 8), np.float32)
    assert np.ptp(found["x"]) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:image/png;base64,AAAA", "row 1: neither an image file nor Base64"),
        ("hello world", "row 1: neither an image file nor Base64"),
        ("AAAA", "row 1"),
        ("", "row 1"),
    ],
)
def test_bad_image_files(text: str, words: str) -> None:
    """A file that is no image is reported by its row."""
    tensor = {"name": "x", "shape": [2], "datatype": "BYTES", "data": [base64.b64encode(blank_png(8)).decode(), text]}
    with pytest.raises(InvalidRequest) as caught:
        align(tensor, inputs=IMAGE_INPUT, preprocessing=PREPROCESSING)
    assert caught.value.code == "bad_image"
    assert words in caught.value.message


def test_images_have_one_file_to_a_row() -> None:
    """Several files in one row are not guessed about."""
    tensor = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}
    with pytest.raises(InvalidRequest, match=r"\[N\] or \[N, 1\], found \[1, 2\]"):
        align(tensor, inputs=IMAGE_INPUT, preprocessing=PREPROCESSING)
