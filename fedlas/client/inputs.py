"""Inputs: the rows of a call for predictions, as they are sent: in parts of a size that one request takes."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlas.client.errors import APIConnectionError, ClientError, InvalidInput
from fedlas.client.options import AnswerOptions, HasId, given, json_body, path_part, query
from fedlas.client.predictions import numpy_or_none
from fedlas.client.problems import Retries
from fedlas.client.transfers import opened

#: A request of more rows is refused by the service.
MAX_ROWS = 10_000
#: The server reports itself when the time is up, and that takes a moment.
_ON_THE_WAY_S = 1.0


def predict_path(model: str | HasId) -> str:
    return f"/v1/models/{path_part(model)}/predict"


@dataclass(frozen=True)
class Part:
    """Neighbouring rows that go out in one request, by a moment (`until`); `rows` names them where there are others."""

    inputs: Any
    rows: str | None
    until: float | None

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the rows in errors of the block."""
        try:
            yield
        except ClientError as error:
            if self.rows is not None:
                error.about(self.rows)
            raise

    def request(self, options: AnswerOptions) -> dict[str, Any]:
        """The fields of its `Call`; raises InvalidInput."""
        content, content_type, params = body_of(self.inputs, {"probabilities": True, **options})
        made = {"params": params or None, "content": content, "headers": {"Content-Type": content_type}}
        if self.until is None:
            return made
        if (left := self.until - time.monotonic()) <= 0:
            raise APIConnectionError("the deadline passed before these rows were sent")
        headers = {"Content-Type": content_type, "X-Request-Timeout": f"{left:.3g}"}
        limits = {"timeout": left + _ON_THE_WAY_S, "useful_s": left, "retries": Retries.NOT_FOR_SILENCE}
        return {**made, **limits, "headers": headers}


def parts_of(inputs: Any, deadline: float | None) -> Iterator[Part]:
    """All rows in parts of `MAX_ROWS`, in order, of which all are answered within `deadline` seconds or of no use."""
    until = None if deadline is None else time.monotonic() + deadline
    count = _num_rows(inputs)
    if count <= MAX_ROWS:
        yield Part(inputs, None, until)
        return
    for begin in range(0, count, MAX_ROWS):
        end = min(begin + MAX_ROWS, count)
        yield Part(_rows_of(inputs, begin, end), f"rows {begin} to {end - 1}", until)


def _num_rows(inputs: Any) -> int:
    """The number of rows; 0 where they cannot be counted, which `body_of` reports."""
    if isinstance(inputs, Mapping):
        return max(map(_num_rows, inputs.values()), default=0)
    if (shape := getattr(inputs, "shape", None)) is not None:
        return int(shape[0]) if shape else 0
    return len(inputs) if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes) else 0


def _rows_of(inputs: Any, begin: int, end: int) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _rows_of(part, begin, end) for name, part in inputs.items()}
    return inputs.iloc[begin:end] if hasattr(inputs, "iloc") else inputs[begin:end]


_INFINITY = "inputs hold infinity, which no model is asked about"


#: A body, its type, and the parameters that do not stand in it.
Body = tuple[bytes, str, dict[str, str | int | float]]


def body_of(inputs: Any, options: Mapping[str, Any]) -> Body:
    """The body of a predict request; an array of numbers goes out as it lies in memory. Raises InvalidInput."""
    if hasattr(inputs, "to_json") and hasattr(inputs, "columns"):
        _refuse_empty(len(inputs))
        if not inputs.columns.is_unique:
            raise InvalidInput("doubled_columns", "the frame has several columns of one name")
        if any(inputs[column].isin([math.inf, -math.inf]).any() for column in inputs.columns):
            raise InvalidInput("non_finite", _INFINITY)  # it would be written as a missing number
        return _json_body(inputs.to_json(orient="records", double_precision=15).encode(), options)
    if hasattr(inputs, "__array__"):
        return _array_body(inputs, options)
    if isinstance(inputs, Mapping):
        for part in inputs.values():
            _refuse_empty(len(part))
        return _json_body(_dumped({name: _listed(part) for name, part in inputs.items()}), options)
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence):
        raise InvalidInput(
            "bad_inputs",
            f"inputs are of type {type(inputs).__name__}; needed are rows: an array, a list, or a data frame",
        )
    _refuse_empty(len(inputs))
    return _json_body(_dumped(inputs), options)


def _array_body(inputs: Any, options: Mapping[str, Any]) -> Body:
    if (numpy := numpy_or_none()) is None:
        return _json_body(_dumped(_listed(inputs)), options)
    array = _numbers(numpy, inputs)
    if array.ndim == 0:
        raise InvalidInput("bad_inputs", f"inputs are the single value {array}; needed is an array of rows")
    _refuse_empty(array.shape[0])
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        return _json_body(_dumped(array.tolist()), options)
    buffer = io.BytesIO()
    numpy.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue(), "application/x-npy", query(**options)


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
    rest = json_body(given(options))[1:-1]
    return b'{"inputs":' + inputs + (b"," + rest if rest else b"") + b"}", "application/json", {}


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value, default=_simple, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:  # NaN is how Python has a missing number, and null is how JSON has it
        return json.dumps(_without_nan(value), default=_simple, separators=(",", ":")).encode()


def _simple(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes | bytearray):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, Path):
        with opened(value) as file:
            return {"b64": base64.b64encode(file.read()).decode()}
    raise InvalidInput(
        "bad_inputs", f"inputs hold something of type {type(value).__name__}, which is no number, text or image file"
    )


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
