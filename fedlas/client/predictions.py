"""Predictions: the rows of one request, as they are sent, and their answers, as arrays, as rows, or as a data frame.

Arrays are NumPy's where it can be imported.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from html import escape
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

from pydantic_core import from_json

from fedlas.client.errors import FileError, InvalidInput
from fedlas.client.orders import AnswerOptions, HasId, body_of_order, given, path_part, query
from fedlas.client.problems import Retries
from fedlas.contract.predictions import JudgedRow, Prediction, ServedModel

#: A whole number of at most 18 digits, as Python writes it; "007" is text.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def are_numbers(class_names: Sequence[str]) -> bool:
    """All names are integers; a dataset's labels are read so, too, where they are text of whole numbers."""
    return all(map(_INTEGER.fullmatch, class_names))


@dataclass(frozen=True)
class JudgedPredictions:
    """A served model's probabilities on the test rows of its job, which neither trained nor calibrated it.

    Attributes:
        class_names: the order of the columns.
        rows: (N,) numbers of the rows in the dataset.
        ids: (N,) their names; None where the dataset has no role `id`.
        labels: (N,) the true classes: integers where all class names are, else text.
        probabilities: (N, K).
    """

    class_names: list[str]
    rows: Any
    ids: Any
    labels: Any
    probabilities: Any

    @classmethod
    def of(cls, class_names: list[str], rows: Sequence[JudgedRow]) -> JudgedPredictions:
        """The predictions in these rows, of all pages."""
        numbered = are_numbers(class_names)
        ids = [row.id for row in rows]
        return cls(
            class_names,
            array_of([row.row for row in rows], "int64"),
            array_of(ids) if any(one is not None for one in ids) else None,
            array_of([int(row.label) if numbered else row.label for row in rows], "int64" if numbered else None),
            array_of([row.probabilities for row in rows], "float64"),
        )


class Predictions:
    """The answers to the rows of one request, in their order.

    Attributes of all rows are NumPy arrays, or lists where NumPy is not installed; what was not asked for, or what the
    model does not have, is None. Iterating gives one typed `Prediction` per row.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        #: The answer as it came.
        self.raw = answer
        self._rows: list[dict[str, Any]] = answer["predictions"]

    @classmethod
    def of(cls, content: bytes) -> Predictions:
        """The predictions in the body of an answer; raises ValueError."""
        answer = from_json(content)
        if not isinstance(answer, dict) or not isinstance(answer.get("predictions"), list) or "model" not in answer:
            raise ValueError("there are no predictions in it")
        return cls(answer)

    @cached_property
    def model(self) -> ServedModel:
        """Which model answered."""
        return ServedModel.from_answer(self.raw["model"])

    @property
    def class_priors(self) -> dict[str, float] | None:
        """Class priors of the answers, where those are not the class shares of the calibration rows."""
        return cast("dict[str, float] | None", self.raw.get("class_priors"))

    @property
    def answered_share(self) -> float | None:
        """With `max_error`: the share of the guarantee rows that its threshold answers."""
        return cast("float | None", self.raw.get("answered_share"))

    @property
    def class_names(self) -> list[str] | None:
        """The classes in the order of the columns of `probabilities`; None where these were not asked for."""
        return cast("list[str] | None", self.raw.get("class_names"))

    @cached_property
    def labels(self) -> Any:
        """The most probable class of each row, as labels are sent: integers, or text.

        Where all class names are whole numbers, labels, decisions and prediction sets are integers. Without
        `probabilities` an answer does not have the class names, and all of them are text.
        """
        return self._column("label", of_classes=True)

    @cached_property
    def indices(self) -> Any:
        """Its index."""
        return self._column("index", "int64")

    @cached_property
    def confidences(self) -> Any:
        """The calibrated probability that the label is right."""
        return self._column("confidence", "float64")

    @cached_property
    def uncalibrated_confidences(self) -> Any:
        """Confidences of the network without a calibrator."""
        return self._column("uncalibrated_confidence", "float64")

    @cached_property
    def abstain(self) -> Any:
        """Whether the confidence is below what `abstain_below` or `max_error` asks for."""
        return self._column("abstain", "bool")

    @cached_property
    def familiarity(self) -> Any:
        """The share of calibration rows that were at least as strange; small is far."""
        return self._column("familiarity", "float64")

    @cached_property
    def probabilities(self) -> Any:
        """(N, K) calibrated probabilities of all classes, in the order of `class_names`."""
        return self._column("probabilities", "float64")

    @cached_property
    def positive_probability(self) -> Any:
        """(N,) of the positive class of a binary model; None for others."""
        return self._column("probability", "float64")

    @cached_property
    def decisions(self) -> Any:
        """With `decision`: the class to act on."""
        return self._column("decision", of_classes=True)

    @property
    def prediction_sets(self) -> list[list[Any]] | None:
        """With `coverage`: the classes of each row, the most probable first."""
        found = self._listed("prediction_set")
        return [list(map(int, one)) for one in found] if found is not None and self._numbered else found

    @property
    def top_k(self) -> list[list[dict[str, Any]]] | None:
        """With `top_k`: the most probable classes of each row, each with `label`, `index` and `confidence`."""
        return self._listed("top_k")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Prediction:
        return Prediction.from_answer(self._rows[row])

    def __iter__(self) -> Iterator[Prediction]:
        return map(Prediction.from_answer, self._rows)

    def __repr__(self) -> str:
        labels = ", ".join(repr(row["label"]) for row in self._rows[:3])
        more = ", …" if len(self) > 3 else ""
        return f"<Predictions of {len(self)} rows by {self.raw['model'].get('name')!r}: {labels}{more}>"

    def to_frame(self) -> Any:
        """A pandas data frame with one row each; raises InvalidInput where pandas is not installed."""
        return frame_of(self._rows)

    def _repr_html_(self) -> str:
        shown = ("label", "confidence", "uncalibrated_confidence", "abstain")
        head = "".join(f"<th>{name}</th>" for name in shown)
        rows = [[row[name] for name in shown] for row in self._rows[:20]]
        body = "".join("<tr>" + "".join(f"<td>{escape(_short(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        more = f"<p>{len(self) - 20} more rows</p>" if len(self) > 20 else ""
        return f"<table><tr>{head}</tr>{body}</table>{more}"

    @cached_property
    def _numbered(self) -> bool:
        return are_numbers(self.class_names or ("",))

    def _column(self, name: str, dtype: str | None = None, *, of_classes: bool = False) -> Any:
        if (found := self._listed(name)) is None:
            return None
        return array_of(list(map(int, found)), "int64") if of_classes and self._numbered else array_of(found, dtype)

    def _listed(self, name: str) -> list[Any] | None:
        return [row.get(name) for row in self._rows] if self._rows and name in self._rows[0] else None


def frame_of(rows: list[dict[str, Any]]) -> Any:
    """A data frame of answers; raises InvalidInput without pandas."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise InvalidInput("no_pandas", "a data frame needs pandas (pip install pandas)") from None
    return pandas.DataFrame.from_records(rows)


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@cache
def numpy_or_none() -> ModuleType | None:
    """NumPy, loaded on first use; None where it is not installed."""
    try:
        return import_module("numpy")
    except ImportError:
        return None


def array_of(values: list[Any], dtype: str | None = None) -> Any:
    """An array of these values, where None among floats is NaN; without NumPy the list itself."""
    if (numpy := numpy_or_none()) is None:
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
    return Body(b'{"inputs":' + inputs + (b"," + rest if rest else b"") + b"}", "application/json", {})


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
        return {"b64": base64.b64encode(_image(value)).decode()}
    raise InvalidInput(
        "bad_inputs", f"inputs hold something of type {type(value).__name__}, which is no number, text or image file"
    )


def _image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileError("no_such_file", f"there is no file {path}") from None
    except OSError as error:
        raise FileError("unreadable_file", f"{path} cannot be read: {error.strerror}") from None


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
