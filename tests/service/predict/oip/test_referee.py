"""Requests that `tritonclient` writes are read as they were meant, and it reads our answers as they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from service.predict.formats.oip_requests import RequestedOutput, decode
from service.predict.formats.oip_responses import encode

DTYPES = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def finite(dtype: str) -> st.SearchStrategy[np.ndarray]:
    """Arrays of any shape without NaN and infinity."""
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("f") else {}
    return arrays.arrays(np.dtype(dtype), SHAPES, elements=elements)


NUMBERS = st.sampled_from(DTYPES).flatmap(finite)
CONTENTS = arrays.arrays(object, SHAPES, elements=st.binary(max_size=12), fill=st.nothing())


def written(values: np.ndarray, name: str, *, binary: bool) -> InferInput:
    """An input as a client makes it."""
    tensor = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=4), TEXTS.filter(bool))
@settings(deadline=None)
def test_numbers_arrive_as_they_were_sent(inputs: list[tuple[np.ndarray, bool]], request_id: str) -> None:
    """Any mixture of types, shapes and forms, bit by bit."""
    tensors = [written(values, f"i{number}", binary=binary) for number, (values, binary) in enumerate(inputs)]
    body, length = InferenceServerClient.generate_request_body(tensors, request_id=request_id)
    found = decode(body, length)
    assert found.id == request_id
    assert found.binary
    assert list(found.inputs) == [f"i{number}" for number in range(len(inputs))]
    for array, (values, _) in zip(found.inputs.values(), inputs, strict=True):
        assert (array.dtype, array.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(array, values)


@given(CONTENTS)
@settings(deadline=None)
def test_bytes_arrive_as_they_were_sent(values: np.ndarray) -> None:
    """Bytes of any content and length, in tensors of any shape."""
    body, length = InferenceServerClient.generate_request_body([written(values, "x", binary=True)])
    found = decode(body, length).inputs["x"]
    assert (found.dtype, found.shape) == (np.dtype(object), values.shape)
    assert found.tolist() == values.tolist()


@given(arrays.arrays(object, SHAPES, elements=TEXTS, fill=st.nothing()))
@settings(deadline=None)
def test_texts_arrive_as_utf_8(values: np.ndarray) -> None:
    """Texts are equal from JSON and from bytes."""
    for binary in (False, True):
        body, length = InferenceServerClient.generate_request_body([written(values, "x", binary=binary)])
        found = decode(body, length).inputs["x"]
        assert found.shape == values.shape
        assert [content.decode() for content in found.ravel()] == values.ravel().tolist()


OUTPUTS = st.one_of(NUMBERS, arrays.arrays(object, SHAPES, elements=TEXTS, fill=st.nothing()))


@given(st.lists(st.tuples(OUTPUTS, st.booleans()), min_size=1, max_size=4), st.none() | TEXTS)
@settings(deadline=None)
def test_answers_are_read_as_they_were_written(outputs: list[tuple[np.ndarray, bool]], identifier: str | None) -> None:
    """Any mixture of types, shapes and forms; floats in JSON are the same again in their own type."""
    wanted = [RequestedOutput(f"o{number}", binary) for number, (_, binary) in enumerate(outputs)]
    tensors = {output.name: values for output, (values, _) in zip(wanted, outputs, strict=True)}
    body, length = encode(tensors, wanted, name="m", version="2", id=identifier)
    assert (length is None) == (not any(binary for _, binary in outputs))
    result = InferenceServerClient.parse_response_body(body, header_length=length)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response.get("id")) == ("m", "2", identifier)
    for name, (values, binary) in zip(tensors, outputs, strict=True):
        found = result.as_numpy(name)
        assert (found.dtype, found.shape) == (values.dtype, values.shape)
        texts = [text.encode() for text in values.ravel()] if binary and values.dtype == object else values.ravel()
        np.testing.assert_array_equal(found.ravel(), np.array(texts, dtype=values.dtype))


def test_outputs_as_the_client_asks_for_them() -> None:
    """Form and number of classes are what was asked for."""
    asked = [
        InferRequestedOutput("a"),
        InferRequestedOutput("b", binary_data=False),
        InferRequestedOutput("c", class_count=3),
    ]
    values = np.zeros((1, 2), dtype=np.float32)
    body, length = InferenceServerClient.generate_request_body(
        [written(values, "x", binary=True)], outputs=asked, priority=1, timeout=5, parameters={"coverage": 0.9}
    )
    found = decode(body, length)
    assert found.wanted == (RequestedOutput("a", True), RequestedOutput("b", False), RequestedOutput("c", True, 3))
    assert (found.id, found.binary) == (None, False)
    assert found.parameters == {"priority": 1, "timeout": 5, "coverage": 0.9}


def test_columns_and_views_are_written_row_by_row() -> None:
    """Views that lie otherwise in memory, as a column of probabilities does, are written in row-major order."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (values[:, 1], values.T, values[::2], values[:, ::-1]):
        for binary in (False, True):
            body, length = encode({"a": array}, [RequestedOutput("a", binary)], name="m", version="1", id=None)
            found = InferenceServerClient.parse_response_body(body, header_length=length).as_numpy("a")
            np.testing.assert_array_equal(found, array)


def test_json_says_no_more_than_it_knows() -> None:
    """A float32 is written with as many digits as it has, and the rest of the answer as the protocol has it."""
    tensors = {"p": np.array([[0.1, 1e-8]], dtype=np.float32), "ok": np.array([True])}
    body, length = encode(tensors, [RequestedOutput("p"), RequestedOutput("ok")], name="m", version="1", id="7")
    assert length is None
    assert b"[0.1,1e-8]" in body
    expected: dict[str, Any] = {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 1e-8]},
            {"name": "ok", "datatype": "BOOL", "shape": [1], "data": [True]},
        ],
    }
    assert json.loads(body) == expected


def test_an_output_that_was_not_computed() -> None:
    """Is a mistake of ours, not an empty tensor."""
    with pytest.raises(KeyError):
        encode({}, [RequestedOutput("a")], name="m", version="1", id=None)
