"""Predictions: answers for rows of a request or batch, the files of a batch's results, and judged test rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from fedlas.contract.base import Document, Page, Sha256, Shape, Strict
from fedlas.contract.options import AnswerOptions
from fedlas.contract.profiles import ModelPromise
from fedlas.contract.scores import ScorePromise

RowId = Annotated[
    str | int | float | None, Field(description="The name of the row, where the dataset has the role `id`.")
]


class PredictRequest(AnswerOptions):
    """Rows to answer, and the options of the answers."""

    inputs: JsonValue = Field(
        description="Rows in the model's input shape, or an object of rows by input name. Where the model has "
        'preprocessing a row may be an image file, `{"b64": "…"}` (PNG, JPEG, WebP or BMP).'
    )


class RankedLabel(Shape):
    """One of the `top_k` classes."""

    label: str = Field(description="The class under its own name.")
    index: int = Field(description="The index of the class in the model.")
    confidence: float = Field(description="Calibrated probability of the class.")


class Prediction(Shape):
    """The answer of the model for one row."""

    label: str = Field(description="The name of the most probable class.")
    index: int = Field(description="The index of this class in the model.")
    confidence: float = Field(description="Calibrated probability that the label is right.")
    uncalibrated_confidence: float = Field(
        description="Confidence of the network, or of an average's first member, without a calibrator."
    )
    abstain: bool = Field(description="Whether the confidence is below what `abstain_below` or `max_error` asks for.")
    probability: float | None = Field(None, description="Binary models: probability of the positive class.")
    typicality: float | None = Field(
        None,
        description="Calibrated models: share of the calibration rows that were at least as strange; small is far.",
    )
    top_k: list[RankedLabel] | None = Field(None, description="With `top_k`: the most probable classes.")
    prediction_set: list[str] | None = Field(None, description="With `coverage`: classes, the most probable first.")
    decision: str | None = Field(None, description="With `decision`: the class to act on.")
    probabilities: list[float] | None = Field(
        None, description="With `probabilities`: those of all classes, in the order of `class_names`."
    )
    row: int | None = Field(None, description="Batches: the row in the dataset, counted from 0.")
    id: RowId = None


class RowError(Shape):
    """The error of a row without an answer."""

    code: str = Field(description="A stable code for machines.")
    message: str = Field(description="The reason why the row has no answer.")


class RowFailure(Shape):
    """A row of a batch that could not be answered, with `errors: "column"`."""

    row: int = Field(description="The row in the dataset, counted from 0.")
    id: RowId = None
    error: RowError = Field(description="The reason why the row has no answer.")


class ServedModel(Shape):
    """The model that gave the answers."""

    id: str = Field(description="The id of the model, `mdl_…`.")
    name: str = Field(description="The published name in the request, or the model's own.")
    version: int = Field(description="The version that answered, from 1.")
    calibrated: bool = Field(description="Whether a job has calibrated the model.")


class PredictResponse(Shape):
    """The answers for the rows of a request."""

    model: ServedModel = Field(description="The model and the version that answered.")
    promise: ModelPromise | None = Field(None, description="With a number as `max_error`: the promise that is kept.")
    class_priors: dict[str, float] | None = Field(
        None, description="Priors of the answers, where they are not the class shares of the calibration rows."
    )
    answered_share: float | None = Field(
        None, description="With `max_error`: share of the guarantee rows that are answered at its threshold."
    )
    class_names: list[str] | None = Field(None, description="With `probabilities`: the classes, in their order.")
    predictions: list[Prediction] = Field(description="One answer for each row, in order.")


class ScoreRequest(Strict):
    """Rows to answer: numbers for one score, for several signals objects of signal and number; null where missing."""

    scores: Annotated[list[float | dict[str, float | None] | None], Field(min_length=1)] = Field(
        description="A score for each row, or an object of its signals; null where there is none."
    )
    slices: list[str] | None = Field(
        None, description="The slice of each row: it is accepted by the threshold of that slice, if it has one."
    )
    valid_for: str | None = Field(
        None, max_length=200, description="The version of score, judge or prompt that the rows come from."
    )


class ScorePrediction(Document):
    """The answer to one row of scores."""

    probability: float = Field(description="The probability that the row is right.")
    low: float = Field(description="The lower end of its band.")
    high: float = Field(description="The upper end of its band.")
    accept: bool | None = Field(
        description="Whether the promise covers it, which is never so where it is stale; null where none was made."
    )
    stale: bool = Field(description="True where the row comes from another version than the promise is valid for.")


class ScoreAnswer(Document):
    """Answers to rows, with the promise that they rest on."""

    model: ServedModel = Field(description="The model and the version that answered.")
    promise: ScorePromise = Field(description="The promise that the answers rest on.")
    predictions: list[ScorePrediction] = Field(description="One answer for each row, in order.")


class JudgedRow(Shape):
    """A test row of a job, with the served model's answer."""

    row: int = Field(description="The row in the dataset, counted from 0.")
    id: RowId = None
    label: str = Field(description="The class of the row, as the dataset has it.")
    probabilities: list[float] = Field(
        description="The calibrated probability of each class, in the order of `class_names`."
    )


class PredictionList(Page[Prediction | RowFailure]):
    """One page of a batch's predictions, in the dataset's order."""


class JudgedRows(Page[JudgedRow]):
    """One page of a job's test rows, in the dataset's order."""

    class_names: list[str] = Field(description="The classes, in the order of `probabilities`.")


class PartResult(Document):
    """The result of one shard, beside the file of its answers."""

    num_rows: int = Field(ge=1)
    num_errors: int | None = Field(None, ge=0)
    bytes: int = Field(ge=1)


class ResultPart(Document):
    """A part of the results: a Parquet file of neighbouring rows of the dataset."""

    number: int = Field(ge=0, description="Number of the part, from 0; `/results/parts/{number}` is its file.")
    first_row: int = Field(ge=0, description="The first row in the dataset, counted from 0.")
    num_rows: int = Field(ge=1, description="The number of rows in the part.")
    bytes: int = Field(ge=1, description="Size of the file in bytes.")
    sha256: Sha256 = Field(description="SHA-256 of the part's file.")

    @property
    def rows(self) -> range:
        """The rows of the dataset that it answers."""
        return range(self.first_row, self.first_row + self.num_rows)


class BatchManifest(Document):
    """All parts of a batch's results; their rows are those of the dataset, in its order, once each."""

    format_version: Literal[1] = Field(1, description="The version of the manifest's format.")
    batch_id: str = Field(description="The id of the batch, `bat_…`.")
    model_sha256: Sha256 | None = Field(
        None,
        description="SHA-256 of the model's file, as in its record; null where results are one file and it is deleted.",
    )
    dataset_sha256: Sha256 | None = Field(None, description="SHA-256 of the dataset's file, as in its record.")
    num_rows: int = Field(ge=0, description="The number of rows in all parts together.")
    num_errors: int | None = Field(None, ge=0, description="With `errors: column`: rows without an answer.")
    parts: list[ResultPart] = Field(min_length=1, description="The parts, in the order of their rows.")

    @model_validator(mode="after")
    def _parts_are_the_whole(self) -> BatchManifest:
        first = 0
        for number, part in enumerate(self.parts):
            if (part.number, part.first_row) != (number, first):
                misplaced = f"part {part.number} begins with row {part.first_row}"
                raise ValueError(f"{misplaced} where part {number} must begin with row {first}")
            first += part.num_rows
        if first != self.num_rows:
            raise ValueError(f"its {len(self.parts)} parts have {first} rows together, not {self.num_rows}")
        return self
