"""Predictions: the answers to rows, as arrays, as objects, or as a data frame.

Arrays are NumPy's where it can be imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from html import escape
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from pydantic_core import from_json

from fedlas.client.errors import APIError, InvalidInput
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
    """The answers to the rows of one call, in their order.

    Attributes of all rows are NumPy arrays, or lists where NumPy is not installed; what was not asked for, or what the
    model does not have, is None. Iterating gives one typed `Prediction` per row.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        #: The answer as it came.
        self.raw = answer
        self._rows: list[dict[str, Any]] = answer["predictions"]

    @classmethod
    def of(cls, content: bytes) -> Predictions:
        """The predictions in the body of an answer, whose first row stands for all; raises ValueError."""
        answer = from_json(content)
        if not isinstance(answer, dict) or not isinstance(answer.get("predictions"), list) or "model" not in answer:
            raise ValueError("there are no predictions in it")
        ServedModel.from_answer(answer["model"])
        for row in answer["predictions"][:1]:
            Prediction.from_answer(row)
        return cls(answer)

    @classmethod
    def joined(cls, answers: Sequence[Predictions]) -> Predictions:
        """The answers of several requests as one; raises APIError where not all are of one model."""
        first = answers[0].raw
        if others := [other.raw["model"] for other in answers if other.raw["model"] != first["model"]]:
            ids = f"{first['model'].get('id')} and {others[0].get('id')}"
            raise APIError("model_changed", f"another version took over meanwhile, so that {ids} answered; ask again")
        return cls({**first, "predictions": [row for answer in answers for row in answer.raw["predictions"]]})

    @cached_property
    def model(self) -> ServedModel:
        """The model that answered."""
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
        """The index of the frame whose rows were sent."""
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
        """True where the confidence is below what `abstain_below` or `max_error` asks for."""
        return self._column("abstain", "bool")

    @cached_property
    def typicality(self) -> Any:
        """The share of calibration rows that were at least as strange; small is far."""
        return self._column("typicality", "float64")

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
        sets = self._listed("prediction_set")
        return [list(map(int, one)) for one in sets] if sets is not None and self._numbered else sets

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
        cells = [[row[name] for name in shown] for row in self._rows[:20]]
        rows = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in cells]
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        more = f"<p>{len(self) - 20} more rows</p>" if len(self) > 20 else ""
        return f"<table><tr>{head}</tr>{body}</table>{more}"

    @cached_property
    def _numbered(self) -> bool:
        return are_numbers(self.class_names or ("",))

    def _column(self, name: str, dtype: str | None = None, *, of_classes: bool = False) -> Any:
        if (column := self._listed(name)) is None:
            return None
        return array_of(list(map(int, column)), "int64") if of_classes and self._numbered else array_of(column, dtype)

    def _listed(self, name: str) -> list[Any] | None:
        return [row.get(name) for row in self._rows] if self._rows and name in self._rows[0] else None


def frame_of(rows: list[dict[str, Any]]) -> Any:
    """A data frame of answers; raises InvalidInput without pandas."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise InvalidInput("no_pandas", "a data frame needs pandas (pip install pandas)") from None
    return pandas.DataFrame.from_records(rows)


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
