"""Inputs: rows of a call for predictions, in parts of a size that one request takes, and files to be sent.

A file is a given one, or one that `fedlas.conversion` writes of an object for as long as it is sent.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from fedlas.client.errors import APIConnectionError, ClientError, FileError, InvalidInput
from fedlas.client.options import AnswerOptions, HasId, given, json_body, path_part, query
from fedlas.client.predictions import numpy_or_none
from fedlas.client.problems import Retries
from fedlas.client.transfers import Source, opened
from fedlas.contract.base import as_list
from fedlas.conversion.score_columns import is_signal, named_columns, score_columns
from fedlas.file_kinds import kind_of, named
from fedlas.model_files import pack, weight_files

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
        return _json_body(_dumped({name: as_list(part) for name, part in inputs.items()}), options)
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence):
        raise InvalidInput(
            "bad_inputs",
            f"inputs are of type {type(inputs).__name__}; expected rows: an array, a list, or a data frame",
        )
    _refuse_empty(len(inputs))
    return _json_body(_dumped(inputs), options)


def _array_body(inputs: Any, options: Mapping[str, Any]) -> Body:
    if (numpy := numpy_or_none()) is None:
        return _json_body(_dumped(as_list(inputs)), options)
    array = _numbers(numpy, inputs)
    if array.ndim == 0:
        raise InvalidInput("bad_inputs", f"inputs are the single value {array}; expected an array of rows")
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
        raise InvalidInput("bad_inputs", f"inputs are an array of {array.dtype}; expected numbers or texts")
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


def _refuse_empty(rows: int) -> None:
    if rows == 0:
        raise InvalidInput("empty_inputs", "inputs have no rows; at least one is needed")


_LOG = logging.getLogger("fedlas.client")


@dataclass(frozen=True)
class Sendable:
    """A file with what its conversion knows: `options` are the upload's parameters, `notes` say what was done."""

    path: Path
    name: str
    class_names: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_path(given: object) -> bool:
    return isinstance(given, str | PathLike)


@contextmanager
def sending(write: Callable[..., Sendable], given: Any, **options: Any) -> Iterator[Sendable]:
    """The file that one of the functions below finds or writes, for the block; raises ConversionError."""
    with tempfile.TemporaryDirectory(prefix="fedlas-") as folder:
        yield write(given, Path(folder), **options)


def model_file(model: Any, folder: Path, **options: Any) -> Sendable:
    """The file of a model, a zip with its weights where they lie beside it; raises ConversionError, FileError."""
    if model is None:
        raise InvalidInput("nothing_to_send", "a model is needed: a path, a module, or an estimator; found None")
    if is_path(model) and options.get("architecture") is None:
        return _with_weights(_as_it_is(model), folder)
    from fedlas import conversion  # with it come torch, scikit-learn or pandas

    made = conversion.model_file(model, folder=folder, **options)
    _tell(made.notes)
    name = _as_it_is(model).name if is_path(model) else type(model).__name__
    return Sendable(made.path, name, made.class_names, dict(made.options), list(made.notes))


def dataset_file(data: Any, folder: Path, **options: Any) -> Sendable:
    """The file of a dataset; raises ConversionError."""
    if data is None:
        raise InvalidInput("nothing_to_send", "a dataset is needed: a path, arrays, or a data frame; found None")
    if is_path(data):
        return _as_it_is(data)
    from fedlas import conversion  # with it come torch, scikit-learn or pandas

    made = conversion.dataset_file(data, folder=folder, **options)
    upload_options = {"roles": made.roles or None, "seen_by_model": made.seen_by_model}
    _tell(made.notes)
    return Sendable(made.path, "dataset", None, upload_options, list(made.notes))


def example_of(data: Any, roles: Mapping[str, Any] | None) -> Any:
    """One batch of inputs, with which a module can be exported; None where only a file is given."""
    if data is None or is_path(data):
        return None
    from fedlas import conversion  # with it come torch, scikit-learn or pandas

    return conversion.example_of(data, roles=roles)


def _as_it_is(path: Any) -> Sendable:
    file = Path(path).expanduser()
    return Sendable(file, file.stem or file.name)


def _with_weights(graph: Sendable, folder: Path) -> Sendable:
    """The graph, or one file of it and of its weights, which must lie beside it under the name that it states."""
    Source(graph.path).close()  # what cannot be read at all is said first
    with graph.path.open("rb") as file:
        kind = kind_of(file.read(4096))
    if kind is not None and kind.model:
        raise FileError("not_onnx", named(f"{graph.path} is {kind.what}: {kind.model}", graph.path))
    if not (names := weight_files(graph.path)):
        return graph
    weights = graph.path.parent / names[0]
    if names != [weights.name] or not weights.is_file():
        raise FileError(
            "external_data",
            f"{graph.path} keeps its weights in {' and '.join(names)}; expected one such file beside it, in "
            f"{graph.path.absolute().parent}, or one file that is written where both are: "
            f'onnx.save(onnx.load("{graph.path.name}"), "one.onnx")',
        )
    whole = folder / "model.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        pack(archive, (graph.path.name, graph.path), (weights.name, weights))
    return replace(graph, path=whole)


def _tell(notes: list[str]) -> None:
    for note in notes:
        _LOG.info("%s", note)


def scores_file(path: Any, folder: Path, *, arrays: dict[str, Any]) -> Sendable:
    """The file as it is, or an npz of the arrays that are given; raises ConversionError."""
    given = {name: array for name, array in arrays.items() if array is not None}
    if (path is None) == (not given):
        raise InvalidInput(
            "nothing_to_send", "either a file of scores is needed, or arrays: logits or probabilities, and labels"
        )
    if path is not None:
        return _as_it_is(path)
    if (numpy := numpy_or_none()) is None:
        raise InvalidInput("no_numpy", "arrays of scores need NumPy (pip install numpy); or give a file")
    from fedlas.conversion.columns import as_array  # it needs NumPy

    written = folder / "scores.npz"
    numpy.savez(written, **{name: as_array(array, name) for name, array in given.items()})
    return Sendable(written, "scores")


def score_file(scores: Any, folder: Path, *, beside: dict[str, Any]) -> Sendable:
    """The file as it is, or an npz of one score or several signals and the columns beside them."""
    if is_path(scores):
        if unsent := [name for name, values in beside.items() if values is not None]:
            raise InvalidInput("file_and_arrays", f"{scores} is sent as it is: {unsent[0]} must stand in it")
        return _as_it_is(scores)
    columns = score_columns(scores, **beside) if numpy_or_none() else {"score": scores}  # of which an error is made
    return scores_file(None, folder, arrays=dict(columns))


def score_rows(scores: Any) -> list[Any]:
    """A number for each row, of several signals an object of them; None where one is missing. Raises InvalidInput."""
    named = {name: values for name, values in named_columns(scores).items() if is_signal(name)}
    columns = {name: _without_nan(as_list(values)) for name, values in named.items()}
    lengths = {len(values) if isinstance(values, list) else None for values in columns.values()}
    if len(lengths) != 1 or None in lengths:
        raise InvalidInput("bad_inputs", f"found {scores!r:.80}; expected scores, or columns of one length of signals")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    _refuse_empty(len(rows))
    return rows if isinstance(scores, Mapping) or hasattr(scores, "columns") else list(columns["score"])
