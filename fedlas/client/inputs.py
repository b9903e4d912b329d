"""Inputs of a prediction: from arrays, frames and lists to the request; arrays where NumPy is importable."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fedlas.client.errors import FileProblem, InvalidInput
from fedlas.client.orders import AnswerOptions, HasId, body_of_order, given, path_part, query
from fedlas.client.problems import Retries


@cache
def numpy_or_none() -> ModuleType | None:
    """NumPy, loaded on first use; None where it is not installed."""
    try:
        return import_module("numpy")
    except ImportError:
        return None


def array_of(values: list[Any], dtype: str | None = None) -> Any:
    """An array of these values, where None among floats is NaN; without NumPy the list itself."""
    numpy = numpy_or_none()
    if numpy is None:
        return values
    holes = dtype != "float64" and None in values  # only a float has a word for what is missing
    return numpy.array(values, dtype=object if holes else dtype)


#: The server says itself when the time is up, and that takes a moment.
_ON_THE_WAY_S = 1.0
_INFINITY = "inputs hold infinity, which no model is asked about"


class Body(NamedTuple):
    """A body with its type, and the parameters that do not stand in it."""

    content: bytes
    content_type: str
    params: dict[str, str | int | float]


def body_of(inputs: Any, options: Mapping[str, Any]) -> Body:
    """The body of a predict request; an array of numbers goes out as it lies in memory. Raises InvalidInput."""
    if hasattr(inputs, "to_json") and hasattr(inputs, "columns"):
        _refuse_empty(len(inputs))
        if not inputs.columns.is_unique:
            raise InvalidInput("doubled_columns", "the frame has several columns of one name")
        if any(inputs[column].isin([math.inf, -math.inf]).any() for column in inputs.columns):
            raise InvalidInput("non_finite", _INFINITY)  # it would be written as a missing number
        rows = inputs.to_json(orient="records", double_precision=15)
        return _json_body(rows.encode(), options)
    if hasattr(inputs, "__array__"):
        return _array_body(inputs, options)
    if isinstance(inputs, Mapping):
        for part in inputs.values():
            _refuse_empty(len(part))
        return _json_body(_dumped({name: _listed(part) for name, part in inputs.items()}), options)
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence):
        found = type(inputs).__name__
        raise InvalidInput(
            "bad_inputs", f"inputs are of type {found}; needed are rows: an array, a list, or a data frame"
        )
    _refuse_empty(len(inputs))
    return _json_body(_dumped(inputs), options)


def predict_request(model: str | HasId, inputs: Any, timeout: float | None, options: AnswerOptions) -> dict[str, Any]:
    """The arguments of a request for predictions, beside its method; raises InvalidInput."""
    body = body_of(inputs, {"probabilities": True, **options})
    headers = {"Content-Type": body.content_type}
    if timeout is not None:
        headers["X-Request-Timeout"] = f"{timeout:g}"
    return {
        "path": f"/v1/models/{path_part(model)}/predict",
        "params": body.params or None,
        "content": body.content,
        "headers": headers,
        "timeout": None if timeout is None else timeout + _ON_THE_WAY_S,
        "retries": Retries.WHERE_IT_HELPS if timeout is None else Retries.NOT_FOR_SILENCE,
    }


def _array_body(inputs: Any, options: Mapping[str, Any]) -> Body:
    numpy = numpy_or_none()
    if numpy is None:
        return _json_body(_dumped(_listed(inputs)), options)
    array = _numbers(numpy, inputs)
    if array.ndim == 0:
        raise InvalidInput("bad_inputs", f"inputs are the single value {array}; needed is an array of rows")
    _refuse_empty(array.shape[0])
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        return _json_body(_dumped(array.tolist()), options)
    buffer = io.BytesIO()
    numpy.lib.format.write_array(buffer, array, allow_pickle=False)
    return Body(buffer.getvalue(), "application/x-npy", query(**options))


def _numbers(numpy: Any, inputs: Any) -> Any:
    """The array; a number that is masked is missing, and one of a kind that few know becomes an ordinary one."""
    if hasattr(inputs, "detach"):
        inputs = inputs.detach().cpu()
        inputs = inputs.float() if "bfloat16" in str(inputs.dtype) else inputs
    if isinstance(inputs, numpy.ma.MaskedArray):
        if inputs.dtype.kind != "f" and inputs.mask.any():
            raise InvalidInput("masked_inputs", f"inputs of {inputs.dtype} are masked, and only floats may be missing")
        inputs = inputs.filled(numpy.nan) if inputs.dtype.kind == "f" else inputs.data
    array = numpy.asarray(inputs)
    if array.dtype.kind not in "biufUSO":
        raise InvalidInput("bad_inputs", f"inputs are an array of {array.dtype}; needed are numbers or texts")
    return array.astype("float64") if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array


def _json_body(inputs: bytes, options: Mapping[str, Any]) -> Body:
    rest = body_of_order(given(options))[1:-1]
    content = b'{"inputs":' + inputs + (b"," + rest if rest else b"") + b"}"
    return Body(content, "application/json", {})


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value, default=_simple, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:  # NaN is how Python has a missing number, and null is how JSON has it
        return json.dumps(_without_nan(value), default=_simple, separators=(",", ":")).encode()


def _simple(value: Any) -> Any:
    """What JSON has no word for."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes | bytearray):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, Path):
        return {"b64": base64.b64encode(_image(value)).decode()}
    raise InvalidInput(
        "bad_inputs", f"inputs hold something of type {type(value).__name__}, which is no number, text or image file"
    )


def _image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileProblem("no_such_file", f"there is no file {path}") from None
    except OSError as error:
        raise FileProblem("unreadable_file", f"{path} cannot be read: {error.strerror}") from None


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        if math.isinf(value):
            raise InvalidInput("non_finite", _INFINITY)
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if hasattr(value, "tolist"):
        return _without_nan(value.tolist())
    return [_without_nan(part) for part in value] if isinstance(value, list | tuple) else value


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _refuse_empty(rows: int) -> None:
    if rows == 0:
        raise InvalidInput("empty_inputs", "inputs have no rows; at least one is needed")
