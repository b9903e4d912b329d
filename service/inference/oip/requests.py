"""Inference requests of the protocol: decoded from bytes, and their inputs aligned with what a model takes."""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import numpy as np
import orjson

from service.inference.excerpts import listed, shown
from service.inference.images import MAX_BASE64_BYTES, decoded
from service.inference.json_arrays import may_hold_booleans
from service.inference.oip.datatypes import datatype_name, numbers_of
from service.inference.oip.tensors import checked_shape, from_binary, from_json
from service.inference.profile import ServingProfile, TensorSpec
from service.inference.signature import check_row_counts, fit
from service.registry.errors import InvalidRequest

#: Inputs, outputs, parameters: each is read by itself, and no model has so many.
_MOST_NAMED = 256

Scalar = str | int | float | bool
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """A requested output; `classes` is the k of the classification extension."""

    name: str
    binary: bool = False
    classes: int | None = None


class InferenceRequest(NamedTuple):
    """A decoded request.

    Attributes:
        id: echoed in the response.
        inputs: name → array of the datatype and shape that were announced; BYTES are objects, each `bytes`.
        wanted: the requested outputs; None for the defaults.
        binary: whether outputs of which nothing else is said go back as binary tensors (`binary_data_output`).
        parameters: of the request, as they came.
    """

    id: str | None
    inputs: dict[str, np.ndarray]
    wanted: tuple[RequestedOutput, ...] | None
    binary: bool
    parameters: dict[str, Scalar]


def decode(body: bytes, header_length: int | None) -> InferenceRequest:
    """Read a body; its first `header_length` bytes are JSON and the rest binary tensors, None for JSON alone.

    Raises InvalidRequest, which names what was found and what is needed.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        found = f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes"
        _fail("invalid_request", found)
    content = _json(body if header_length is None else memoryview(body)[:header_length])
    identifier = content.get("id")
    if identifier is not None and not isinstance(identifier, str):
        _fail("invalid_request", f'"id" must be a text, found {shown(identifier)}', field="id")
    parameters = _scalars(content.get("parameters"), of="request")
    binary = _flag(parameters, "binary_data_output", of="request")
    return InferenceRequest(
        id=identifier,
        inputs=_inputs(content.get("inputs"), body, header_length),
        wanted=_wanted(content.get("outputs"), binary),
        binary=binary,
        parameters=parameters,
    )


def _json(raw: bytes | memoryview) -> Json:
    try:
        content = orjson.loads(raw)
    except ValueError as error:
        _explain_json(bytes(raw), error)
    if not isinstance(content, dict):
        _fail("invalid_request", 'the request must be a JSON object with "inputs"', field="inputs")
    return content


def _explain_json(raw: bytes, error: ValueError) -> NoReturn:
    """Some clients write NaN, which JSON does not have: the error names the input that holds it."""
    if b"NaN" in raw or b"Infinity" in raw:
        try:
            content = json.loads(raw)
            for item in content["inputs"]:
                flat = item["data"]
                while flat and isinstance(flat[0], list):
                    flat = list(chain.from_iterable(flat))
                for number, value in enumerate(flat):
                    if isinstance(value, float) and not math.isfinite(value):
                        found = f"input {shown(item['name'])}: value {number} of data is {value}"
                        raise InvalidRequest("non_finite", f"{found}; NaN and infinity are refused", field="inputs")
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # then it is not only NaN that is wrong
    found = f"the body is not valid JSON: {error} (with binary tensors, Inference-Header-Content-Length must be given)"
    raise InvalidRequest("invalid_json", found) from error


def _scalars(value: object, *, of: str) -> dict[str, Scalar]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        _fail("invalid_request", f'{of}: "parameters" must be an object, found {shown(value)}', field="parameters")
    _check_number(value, f"{of}: parameters", field="parameters")
    for name, item in value.items():
        if not isinstance(item, str | int | float | bool):
            found = f"{of}: the parameter {shown(name)} must be a text, a number, true or false, found {shown(item)}"
            _fail("invalid_request", found, field="parameters")
    if "shared_memory_region" in value:
        _fail("invalid_request", f"{of}: shared memory is not used; send and receive the values", field="parameters")
    return value


def _check_number(found: Sized, what: str, *, field: str) -> None:
    if len(found) > _MOST_NAMED:
        _fail("invalid_request", f"{len(found)} {what}; at most {_MOST_NAMED}", field=field)


def _flag(parameters: Mapping[str, Scalar], name: str, *, of: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        _fail("invalid_request", f"{of}: {name} must be true or false, found {shown(value)}", field="parameters")
    return value


def _named(items: object, what: str) -> Sequence[tuple[str, Json]]:
    """Objects with names, each once."""
    if not isinstance(items, list):
        found = "nothing" if items is None else shown(items)
        _fail("invalid_request", f'"{what}s" must be a list of objects, found {found}', field=f"{what}s")
    _check_number(items, f"{what}s", field=f"{what}s")
    named: dict[str, Json] = {}
    for number, item in enumerate(items):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            _fail("invalid_request", f'{what} {number} must be an object with a "name"', field=f"{what}s")
        if name in named:
            _fail("invalid_request", f"{what} {shown(name)} is there twice", field=f"{what}s")
        named[name] = item
    return list(named.items())


def _inputs(items: object, body: bytes, header_length: int | None) -> dict[str, np.ndarray]:
    """Binary tensors lie behind the JSON, in the order of the inputs that announce them."""
    view = memoryview(body)
    start = len(body) if header_length is None else header_length
    inputs: dict[str, np.ndarray] = {}
    for name, item in _named(items, "input"):
        of = f"input {shown(name)}"
        shape, datatype = checked_shape(item.get("shape"), of=of), numbers_of(item.get("datatype"), of=of)
        size = _scalars(item.get("parameters"), of=of).get("binary_data_size")
        if (size is None) == (item.get("data") is None):
            found = "neither" if size is None else "both"
            _fail("invalid_request", f'{of}: either "data" or the parameter binary_data_size is needed, found {found}')
        if size is None:
            inputs[name] = from_json(item["data"], datatype, shape, of=of, booleans=may_hold_booleans(body))
            continue
        if type(size) is not int or not 0 <= size <= len(body) - start:
            where = "; Inference-Header-Content-Length is not given" if header_length is None else ""
            found = f"binary_data_size is {shown(size)}, {len(body) - start} bytes are left behind the JSON{where}"
            _fail("wrong_size", f"{of}: {found}")
        inputs[name] = from_binary(view[start : start + size], datatype, shape, of=of)
        start += size
    if start < len(body):
        _fail("wrong_size", f"{len(body) - start} bytes are left at the end of the body, which no input announces")
    return inputs


def _wanted(items: object, binary: bool) -> tuple[RequestedOutput, ...] | None:
    if items is None or items == []:
        return None
    return tuple(_wanted_output(name, item, binary) for name, item in _named(items, "output"))


def _wanted_output(name: str, item: Json, binary: bool) -> RequestedOutput:
    if item.get("parameters") is None:
        return RequestedOutput(name, binary)
    of = f"output {shown(name)}"
    parameters = _scalars(item.get("parameters"), of=of)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        found = f"{of}: classification must be the number of classes, found {shown(classes)}"
        _fail("invalid_request", found, field="outputs")
    return RequestedOutput(name, _flag(parameters, "binary_data", of=of, default=binary), classes or None)


def aligned(request: InferenceRequest, profile: ServingProfile, *, max_rows: int) -> dict[str, np.ndarray]:
    """The inputs as the model takes them, in its order, all with the same number of rows.

    Numbers are cast as `fit` says. BYTES are image files, as they are or in Base64, for models with preprocessing.
    Raises InvalidRequest, and TooLarge for more than `max_rows` rows and as `images.decoded`.
    """
    specs = profile.inputs
    if request.inputs.keys() != {spec.name for spec in specs}:
        needed = ", ".join(_described(spec, profile) for spec in specs)
        _fail("wrong_inputs", f"the model's inputs are {needed}; found are {listed(request.inputs)}")
    check_row_counts({name: len(array) if array.ndim else 1 for name, array in request.inputs.items()}, max_rows)
    return {spec.name: _fitted(request.inputs[spec.name], spec, profile) for spec in specs}


def _fitted(array: np.ndarray, spec: TensorSpec, profile: ServingProfile) -> np.ndarray:
    if array.dtype != object:
        return fit(array, spec)
    if array.ndim == 0 or array.size != len(array):
        found = f"input {spec.name!r}: image files have the shape [N] or [N, 1], found {list(array.shape)}"
        _fail("wrong_shape", found)
    files, preprocessing = array.ravel().tolist(), profile.preprocessing
    if preprocessing is not None:
        files = [_image_file(row, content) for row, content in enumerate(files)]
    return decoded(files, spec, preprocessing)


def _image_file(row: int, content: bytes) -> bytes:
    """No image file could be read as Base64: all begin with, or soon have, bytes that are none of its letters."""
    if len(content) > MAX_BASE64_BYTES:
        return content  # too large, whatever it is
    try:
        return binascii.a2b_base64(content, strict_mode=True)
    except ValueError as error:
        if content[:64].isascii() and content[:64].decode().isprintable():
            found = f"row {row}: neither an image file nor Base64 (RFC 4648, without line breaks or a data: prefix)"
            raise InvalidRequest("bad_image", f"{found}: {error}", field="inputs") from error
        return content


def _described(spec: TensorSpec, profile: ServingProfile) -> str:
    kind = datatype_name(spec.dtype) + (" or BYTES (image files)" if profile.preprocessing else "")
    return f"{spec.name!r} {kind} [{', '.join(map(str, spec.shape))}]"


def _fail(code: str, message: str, *, field: str = "inputs") -> NoReturn:
    raise InvalidRequest(code, message, field=field)
