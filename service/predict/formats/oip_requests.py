"""Inference requests of the protocol: decoded, aligned with what a model takes, and the outputs that they ask for."""

from __future__ import annotations

import binascii
import difflib
import json
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import numpy as np
import orjson
from pydantic import JsonValue, TypeAdapter, ValidationError

from fedlas.contract.options import AnswerOptions, GivenPriors
from service.predict.engine.profile import ServingProfile, TensorSpec
from service.predict.formats.images import MAX_BASE64_BYTES, decoded
from service.predict.formats.json_inputs import listed, may_hold_booleans, shown
from service.predict.formats.oip_tensors import (
    DATATYPES,
    checked_shape,
    datatype_name,
    from_binary,
    from_json,
    numbers_of,
)
from service.predict.formats.predictions import NO_OPTIONS
from service.predict.formats.signature import check_row_counts, fit
from service.registry.errors import InvalidRequest

#: Inputs, outputs, parameters: each is read by itself, and no model has so many.
_MAX_NAMED = 256

Scalar = str | int | float | bool
Json = Mapping[str, Any]
#: Outputs that go back where the client names none; what its parameters ask for comes on top.
DEFAULTS = ("probabilities", "confidence", "label")
#: Outputs whose columns are the classes, which the classification extension can rank.
_CLASSIFIABLE = ("probabilities", "logits")
_RANKED = ("top_k_index", "top_k_label", "top_k_confidence")
#: Outputs that are there only with one of these parameters.
_NEEDED_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "threshold": ("abstain_below", "max_error"),
    "prediction_set": ("coverage",),
    **dict.fromkeys(_RANKED, ("top_k",)),
    "decision": ("decision_threshold", "decision_keep"),
}
#: Outputs of the file that a request may take, and those that an output of the protocol is computed from; all others
#: are made of the columns that every batch has.
_MADE_OF: Mapping[str, str] = {
    **{name: name for name in ("probabilities", "logits", "features", "typicality")},
    **dict.fromkeys(("probability", "prediction_set", *_RANKED, "decision"), "probabilities"),
}
_SHARES = ("abstain_below", "max_error", "coverage", "decision_threshold")
_PARAMETERS = (*_SHARES, "top_k", "decision_keep", "class_priors")
_MISTAKEN = {"threshold": "decision_threshold", "decision": "decision_threshold"}
_MAX_TOP_K = 1000
_PRIORS: TypeAdapter[dict[str, float] | None] = TypeAdapter(GivenPriors)


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
        binary: whether outputs without a word of their own go back as binary tensors (`binary_data_output`).
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
        _fail("invalid_request", f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes")
    content = _json(body if header_length is None else memoryview(body)[:header_length])
    identifier = content.get("id")
    if identifier is not None and not isinstance(identifier, str):
        _fail("invalid_request", f'"id" must be a text, found {shown(identifier)}', field="id")
    parameters = _scalars(content.get("parameters"), of="request")
    binary = _flag(parameters, "binary_data_output", of="request")
    outputs = [] if content.get("outputs") is None else content["outputs"]
    return InferenceRequest(
        id=identifier,
        inputs=_inputs(content.get("inputs"), body, header_length),
        wanted=tuple(_wanted_output(name, item, binary) for name, item in _named(outputs, "output")) or None,
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
                        where = f"input {shown(item['name'])}: value {number} of data is {value}"
                        raise InvalidRequest("non_finite", f"{where}; NaN and infinity are refused", field="inputs")
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # then it is not only NaN that is wrong
    reason = f"the body is not valid JSON: {error} (with binary tensors, Inference-Header-Content-Length must be given)"
    raise InvalidRequest("invalid_json", reason) from error


def _scalars(value: object, *, of: str) -> dict[str, Scalar]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        _fail("invalid_request", f'{of}: "parameters" must be an object, found {shown(value)}', field="parameters")
    _check_number(value, f"{of}: parameters", field="parameters")
    for name, item in value.items():
        if not isinstance(item, str | int | float | bool):
            message = f"{of}: the parameter {shown(name)} must be a text, a number, true or false, found {shown(item)}"
            _fail("invalid_request", message, field="parameters")
    if "shared_memory_region" in value:
        _fail("invalid_request", f"{of}: shared memory is not used; send and receive the values", field="parameters")
    return value


def _check_number(entries: Sized, what: str, *, field: str) -> None:
    if len(entries) > _MAX_NAMED:
        _fail("invalid_request", f"{len(entries)} {what}; at most {_MAX_NAMED}", field=field)


def _flag(parameters: Mapping[str, Scalar], name: str, *, of: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        _fail("invalid_request", f"{of}: {name} must be true or false, found {shown(value)}", field="parameters")
    return value


def _named(items: object, what: str) -> Sequence[tuple[str, Json]]:
    """Objects with names, each once."""
    if not isinstance(items, list):
        given = "nothing" if items is None else shown(items)
        _fail("invalid_request", f'"{what}s" must be a list of objects, found {given}', field=f"{what}s")
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
            given = "neither" if size is None else "both"
            _fail("invalid_request", f'{of}: either "data" or the parameter binary_data_size is needed, found {given}')
        if size is None:
            inputs[name] = from_json(item["data"], datatype, shape, of=of, booleans=may_hold_booleans(body))
            continue
        if type(size) is not int or not 0 <= size <= len(body) - start:
            where = "; Inference-Header-Content-Length is not given" if header_length is None else ""
            sizes = f"binary_data_size is {shown(size)}, {len(body) - start} bytes are left behind the JSON{where}"
            _fail("wrong_size", f"{of}: {sizes}")
        inputs[name] = from_binary(view[start : start + size], datatype, shape, of=of)
        start += size
    if start < len(body):
        _fail("wrong_size", f"{len(body) - start} bytes are left at the end of the body, which no input announces")
    return inputs


def _wanted_output(name: str, item: Json, binary: bool) -> RequestedOutput:
    if item.get("parameters") is None:
        return RequestedOutput(name, binary)
    of = f"output {shown(name)}"
    parameters = _scalars(item.get("parameters"), of=of)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        _fail(
            "invalid_request",
            f"{of}: classification must be the number of classes, found {shown(classes)}",
            field="outputs",
        )
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
        _fail(
            "wrong_shape", f"input {spec.name!r}: image files have the shape [N] or [N, 1], found {list(array.shape)}"
        )
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
            message = f"row {row}: neither an image file nor Base64 (RFC 4648, without line breaks or a data: prefix)"
            raise InvalidRequest("bad_image", f"{message}: {error}", field="inputs") from error
        return content


def _described(spec: TensorSpec, profile: ServingProfile) -> str:
    kind = datatype_name(spec.dtype) + (" or BYTES (image files)" if profile.preprocessing else "")
    return f"{spec.name!r} {kind} [{', '.join(map(str, spec.shape))}]"


def _fail(code: str, message: str, *, field: str = "inputs") -> NoReturn:
    raise InvalidRequest(code, message, field=field)


_DEFAULTS = {binary: tuple(RequestedOutput(name, binary) for name in DEFAULTS) for binary in (False, True)}


def options(parameters: Mapping[str, Scalar]) -> AnswerOptions:
    """The answer options among the request's parameters; Triton's own (`timeout`, `priority`, …) are passed over.

    Raises InvalidRequest for impossible values, and for names that look like a misspelling of ours. Whether the model
    can promise what is asked is checked by the decision policy.
    """
    if not parameters:
        return NO_OPTIONS
    for name in parameters.keys() - set(_PARAMETERS):
        meant = [_MISTAKEN[name]] if name in _MISTAKEN else difflib.get_close_matches(name, _PARAMETERS, 1, cutoff=0.8)
        if meant:
            raise _invalid(name, f"unknown; {meant[0]!r} may be meant (known are {', '.join(_PARAMETERS)})")
    top_k = parameters.get("top_k")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= _MAX_TOP_K):
        raise _invalid("top_k", f"must be a whole number from 1 to {_MAX_TOP_K}, found {shown(top_k)}")
    share = {name: _share(name, parameters[name]) for name in _SHARES if name in parameters}
    threshold, keep = share.pop("decision_threshold", None), parameters.get("decision_keep")
    if threshold is not None and keep is not None:
        raise _invalid("decision_keep", "a decision has a threshold or keeps something, not both")
    decision: dict[str, JsonValue] | None = None if threshold is None else {"threshold": threshold}
    return AnswerOptions(
        top_k=top_k,
        decision=decision if keep is None else {"keep": keep},
        class_priors=_priors(parameters.get("class_priors")),
        probabilities=None,  # an output by that name
        **share,
    )


def _priors(value: Scalar | None) -> dict[str, float] | None:
    """Class priors; parameters of the protocol are scalars, so they are JSON in a text."""
    if value is None:
        return None
    try:
        return _PRIORS.validate_json(value if isinstance(value, str) else b"")
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise _invalid("class_priors", f"must be a JSON object with a share for each class: {reason[:300]}") from error


def _share(name: str, value: Scalar) -> float:
    if isinstance(value, bool | str) or not 0 <= value <= 1:
        raise _invalid(name, f"must be a number from 0 to 1, found {shown(value)}")
    return float(value)


def _invalid(name: str, message: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"parameter {shown(name)}: {message}", field="parameters")


def always_there(profile: ServingProfile) -> tuple[str, ...]:
    """The outputs that any request may ask for, whatever its parameters."""
    own = ("typicality",) if profile.typicality else ()
    binary = ("probability",) if profile.binary else ()
    return (*DEFAULTS, "index", "logits", "features", "uncalibrated_confidence", "abstain", *own, *binary)


def chosen(request: InferenceRequest, profile: ServingProfile) -> tuple[RequestedOutput, ...]:
    """The outputs to answer: those that are asked for, else DEFAULTS and what the parameters ask for.

    Raises InvalidRequest: `unknown_output` with those that exist, `missing_parameter`, `not_classifiable`.
    """
    if request.wanted is None:
        asked = _asked_by_parameters(request.parameters) if request.parameters else ()
        return (*_DEFAULTS[request.binary], *(RequestedOutput(name, request.binary) for name in asked))
    existing = _existing(profile)
    for wanted in request.wanted:
        if wanted.name not in existing:
            message = f"unknown output {shown(wanted.name)}; this model has {', '.join(existing)}"
            raise InvalidRequest("unknown_output", message, field="outputs")
        needed = _NEEDED_PARAMETERS.get(wanted.name, ())
        if needed and not any(name in request.parameters for name in needed):
            message = f"output {wanted.name!r} needs the parameter {' or '.join(map(repr, needed))}"
            raise InvalidRequest("missing_parameter", message, field="parameters")
        if wanted.classes is not None and wanted.name not in _CLASSIFIABLE:
            message = f"classification is for {' and '.join(_CLASSIFIABLE)}, not for {wanted.name!r}"
            raise InvalidRequest("not_classifiable", message, field="outputs")
    return request.wanted


def _asked_by_parameters(asked: Mapping[str, Scalar]) -> list[str]:
    names = ["prediction_set"] if "coverage" in asked else []
    names += ["abstain", "threshold"] if "abstain_below" in asked or "max_error" in asked else []
    names += _RANKED if "top_k" in asked else ()
    return [*names, "decision"] if asked.keys() & set(_NEEDED_PARAMETERS["decision"]) else names


@lru_cache(maxsize=1024)
def _existing(profile: ServingProfile) -> tuple[str, ...]:
    decides = profile.binary or len(profile.class_names) == 2 or profile.thresholds is not None
    return (*always_there(profile), *(name for name in _NEEDED_PARAMETERS if name != "decision" or decides))


def taken_outputs(wanted: Sequence[RequestedOutput], *, shifted: bool = False) -> tuple[str, ...]:
    """The outputs of the file that these are made of; of `shifted` rows nearly all are made of probabilities."""
    names = [_MADE_OF[output.name] for output in wanted if output.name in _MADE_OF]
    return tuple(dict.fromkeys(["probabilities", *names] if shifted else names))


def raw(body: bytes, profile: ServingProfile) -> InferenceRequest:
    """Rows of the only input, in the model's own type; the answer is binary, too.

    Raises InvalidRequest where the model has several inputs, where rows differ in length, and for a part of a row.
    """
    spec, *others = profile.inputs
    shape = [size for size in spec.row if isinstance(size, int)]
    if others or len(shape) < len(spec.row):
        needed = "a model with one input whose rows have one shape; send JSON with binary tensors behind it"
        _fail("invalid_request", f"Inference-Header-Content-Length is 0: the raw binary request needs {needed}")
    datatype = DATATYPES[datatype_name(spec.dtype)]
    of, row = f"input {spec.name!r}", math.prod(shape) * datatype.dtype.itemsize
    if not body or len(body) % row:
        _fail("wrong_size", f"{of}: the body has {len(body)} bytes, a row has {row}")
    inputs = {spec.name: from_binary(memoryview(body), datatype, (len(body) // row, *shape), of=of)}
    return InferenceRequest(id=None, inputs=inputs, wanted=None, binary=True, parameters={})
