"""The schemas of predictions, `/v1` and the Open Inference Protocol, in the OpenAPI document.

The serving application answers them; `service.inference` reads and writes them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

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
    """Error of a row without an answer."""

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


Parameters = dict[str, str | int | float | bool]


class InputTensor(BaseModel):
    """An input: its values as JSON, or `binary_data_size` of them behind the JSON."""

    name: str
    shape: list[int]
    datatype: str = Field(description="BOOL, UINT8-64, INT8-64, FP16, FP32, FP64; BYTES for image files.")
    data: JsonValue = Field(None, description="Flat or nested.")
    parameters: Parameters | None = None


class RequestedOutput(BaseModel):
    """An output to answer."""

    name: str
    parameters: Parameters | None = Field(None, description="`binary_data`, `classification`.")


class InferRequest(BaseModel):
    """`POST /v2/models/{model}/infer`."""

    id: str | None = None
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = Field(None, description="Default: probabilities, confidence, label.")
    parameters: Parameters | None = Field(
        None,
        description="`binary_data_output`, `timeout` (µs), and what one wants to act on: `abstain_below`, `max_error`, "
        "`coverage`, `top_k`, `decision_threshold`, `decision_keep`, "
        "`class_priors` (JSON in a text); what they bring about comes back as named outputs.",
    )


class OutputTensor(BaseModel):
    """An output, in JSON or behind it."""

    name: str
    shape: list[int]
    datatype: str
    data: list[JsonValue] | None = None
    parameters: Parameters | None = None


class InferResponse(BaseModel):
    """The answer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters | None = Field(None, description="`class_priors` where the answers are shifted to them.")
    outputs: list[OutputTensor]


class OipError(BaseModel):
    """An error in the form of the protocol."""

    error: str


class ServerMetadata(BaseModel):
    """The server, as the protocol describes it."""

    name: str = Field(description="Always `fedlas`.")
    version: str = Field(description="Of the service.")
    extensions: list[str] = Field(description="Extensions of the protocol, in Triton's words.")


class ServerLive(BaseModel):
    """Whether the process answers."""

    live: bool = Field(description="Always true.")


class ServerReady(BaseModel):
    """Whether models can be found and opened."""

    ready: bool = Field(description="False with 503.")


class ServedModels(BaseModel):
    """Models that answer inference."""

    models: list[str] = Field(description="Published names and ids of models.")


class TensorMetadata(BaseModel):
    """An input or output of a model."""

    name: str = Field(description="As in requests and answers.")
    datatype: str = Field(description="In the protocol's words, such as `FP32` or `BYTES`.")
    shape: list[int] = Field(description="The first is the batch; -1 is any size.")


class ModelMetadata(BaseModel):
    """A model, as the protocol describes it."""

    name: str = Field(description="The name or id that was asked for.")
    versions: list[str] = Field(description="Versions of the name; an id has one.")
    platform: str = Field(description="Always `onnxruntime_onnx`.")
    inputs: list[TensorMetadata] = Field(description="What it takes.")
    outputs: list[TensorMetadata] = Field(description="What it answers without parameters.")


class ModelReady(BaseModel):
    """Whether a model answers."""

    name: str = Field(description="The name or id that was asked for.")
    ready: bool = Field(description="False with 503.")


class IndexedModel(BaseModel):
    """A version of a name, or a model by its id, in the repository."""

    name: str = Field(description="The name or id.")
    version: str = Field(description="A number.")
    state: Literal["READY", "LOADING", "UNAVAILABLE"] = Field(description="In Triton's words.")
    reason: str = Field(description="Why it is not READY; else empty.")


class StatisticDuration(BaseModel):
    """How often, and how long together."""

    count: int = Field(description="How often.")
    ns: int = Field(description="Nanoseconds, together.")


class InferenceStatistics(BaseModel):
    """Requests by what became of them, and where their time went."""

    success: StatisticDuration = Field(description="Requests that were answered.")
    fail: StatisticDuration = Field(description="Requests that were refused or failed.")
    queue: StatisticDuration = Field(description="Waiting for a batch.")
    compute_input: StatisticDuration = Field(description="Not measured: 0.")
    compute_infer: StatisticDuration = Field(description="Batches in the model.")
    compute_output: StatisticDuration = Field(description="Not measured: 0.")
    cache_hit: StatisticDuration = Field(description="There is no cache of answers: 0.")
    cache_miss: StatisticDuration = Field(description="There is no cache of answers: 0.")


class BatchStatistics(BaseModel):
    """Batches of one size."""

    batch_size: int = Field(description="Rows.")
    compute_input: StatisticDuration = Field(description="Not measured: 0.")
    compute_infer: StatisticDuration = Field(description="In the model.")
    compute_output: StatisticDuration = Field(description="Not measured: 0.")


class ModelStatistics(BaseModel):
    """Statistics of one version."""

    name: str = Field(description="The name or id that was asked for.")
    version: str = Field(description="A number.")
    last_inference: int = Field(description="Milliseconds since 1970; 0: never.")
    inference_count: int = Field(description="Rows.")
    execution_count: int = Field(description="Batches.")
    inference_stats: InferenceStatistics = Field(description="Requests and their times.")
    batch_stats: list[BatchStatistics] = Field(description="By size of the batch.")


class Statistics(BaseModel):
    """Statistics since the service began."""

    model_stats: list[ModelStatistics] = Field(description="One for each version.")


class ModelConfig(BaseModel):
    """A model in the words of Triton's configuration, as far as its tools read it."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="The name or id that was asked for.")
    platform: str = Field(description="Always `onnxruntime_onnx`.")
    backend: str = Field(description="Always `onnxruntime`.")
    max_batch_size: int = Field(description="Rows that a request may have.")
    input: list[dict[str, JsonValue]] = Field(description="Inputs, without the dimension of the batch.")
    output: list[dict[str, JsonValue]] = Field(description="Outputs, without the dimension of the batch.")
    instance_group: list[dict[str, JsonValue]] = Field(description="What it really runs on, once it is open.")


class Done(BaseModel):
    """Nothing to tell: it was done."""
