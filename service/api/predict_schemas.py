"""The schemas of `POST /v1/models/{model}/predict`, which the serving application answers."""

from __future__ import annotations

from pydantic import BaseModel, Field, JsonValue

from service.registry.contract import AnswerOptions, Page, ServedModel


class PredictRequest(AnswerOptions):
    """`POST /v1/models/{id or published name}/predict`."""

    inputs: JsonValue = Field(
        description="Rows in the model's input shape, or an object of rows by input name. Where the model has "
        'preprocessing a row may be an image file, `{"b64": "…"}` (PNG, JPEG, WebP or BMP).'
    )


class RankedLabel(BaseModel):
    """One of the `top_k` classes."""

    label: str
    index: int
    confidence: float


class Prediction(BaseModel):
    """The answer for one row."""

    label: str
    index: int
    confidence: float = Field(description="Calibrated probability that the label is right.")
    uncalibrated_confidence: float = Field(
        description="What the network, of an average its first member, says without a calibrator."
    )
    abstain: bool = Field(description="The confidence is below what `abstain_below` or `max_error` asks for.")
    probability: float | None = Field(None, description="Binary models: of the positive class.")
    familiarity: float | None = Field(
        None,
        description="Calibrated models: share of the calibration rows that were at least as strange; small is far.",
    )
    top_k: list[RankedLabel] | None = None
    prediction_set: list[str] | None = Field(None, description="With `coverage`; the most probable class first.")
    decision: str | None = Field(None, description="With `decision`: the class to act on.")
    probabilities: list[float] | None = Field(
        None, description="With `probabilities`: of all classes, calibrated, in the order of `class_names`."
    )
    row: int | None = Field(None, description="Batches: the row in the dataset.")
    id: str | int | float | None = Field(None, description="Batches: its name, where the dataset has the role `id`.")


class RowError(BaseModel):
    """Why a row has no answer."""

    code: str
    message: str


class RowFailure(BaseModel):
    """A row of a batch that could not be answered, with `errors: "column"`."""

    row: int
    id: str | int | float | None = None
    error: RowError


class Predictions(BaseModel):
    """The answer to a predict request."""

    model: ServedModel
    class_priors: dict[str, float] | None = Field(
        None, description="What the answers are for, where that is not the class shares of the calibration rows."
    )
    class_names: list[str] | None = Field(None, description="With `probabilities`: the classes, in their order.")
    predictions: list[Prediction]


class JudgedRow(BaseModel):
    """A test row of a job, with what the served model answers."""

    row: int = Field(description="In the dataset.")
    id: str | int | float | None = Field(None, description="Its name, where the dataset has the role `id`.")
    label: str = Field(description="The class that the dataset says it has.")
    probabilities: list[float] = Field(
        description="The calibrated probability of each class, in the order of `class_names`."
    )


class JudgedRows(Page[JudgedRow]):
    """One page of a job's test rows, in the dataset's order."""

    class_names: list[str] = Field(description="The classes, in the order of `probabilities`.")
