"""The Open Inference Protocol (`/v2`), which passes over fields that it does not know, in requests as in answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from fedlas.contract.base import OPEN, Shape

Parameters = dict[str, str | int | float | bool]


class Body(Shape):
    """The body of a request, in which an unknown field is passed over, as clients of the protocol expect."""

    model_config = ConfigDict(extra="ignore", defer_build=False)


NOT_MEASURED = "Not measured, and always 0."
NO_CACHE = "Always 0: there is no cache of answers."
ModelName = Annotated[str, Field(description="The name or id in the request.")]
TensorName = Annotated[str, Field(description="The name of the tensor, as the model's metadata gives it.")]
RowsFirst = Annotated[list[int], Field(description="The shape of the tensor, rows first.")]
BinarySize = Annotated[
    Parameters | None, Field(description="`binary_data_size`, where the values lie behind the JSON.")
]


class InputTensor(Body):
    """An input: its values as JSON, or `binary_data_size` of them behind the JSON."""

    name: TensorName
    shape: RowsFirst
    datatype: str = Field(description="BOOL, UINT8-64, INT8-64, FP16, FP32, FP64; BYTES for image files.")
    data: JsonValue = Field(None, description="The values, flat or nested; absent where they lie behind the JSON.")
    parameters: BinarySize = None


class RequestedOutput(Body):
    """An output to answer, by its name."""

    name: TensorName
    parameters: Parameters | None = Field(None, description="`binary_data` or `classification`.")


class InferRequest(Body):
    """The rows of a request, and the outputs to answer."""

    id: str | None = Field(None, description="A text that comes back with the answer.")
    inputs: list[InputTensor] = Field(description="The tensors of all inputs of the model.")
    outputs: list[RequestedOutput] | None = Field(None, description="Default: probabilities, confidence, label.")
    parameters: Parameters | None = Field(
        None,
        description="`binary_data_output`, `timeout` (µs), and options of the answer: `abstain_below`, `max_error`, "
        "`coverage`, `top_k`, `decision_threshold`, `decision_keep`, "
        "`class_priors` (JSON in a text); their results come back as named outputs.",
    )


class OutputTensor(Shape):
    """An output, in JSON or behind it."""

    name: TensorName
    shape: RowsFirst
    datatype: str = Field(description="The type of the values, in the protocol's words.")
    data: list[JsonValue] | None = Field(None, description="The values, flat; absent where they lie behind the JSON.")
    parameters: BinarySize = None


class InferResponse(Shape):
    """The outputs of the rows of a request."""

    model_name: ModelName
    model_version: str = Field(description="The version that answered.")
    id: str | None = Field(None, description="The text that the request gave.")
    parameters: Parameters | None = Field(None, description="`class_priors` where the answers are shifted to them.")
    outputs: list[OutputTensor] = Field(description="The outputs that were asked for.")


class OipError(Shape):
    """An error in the form of the protocol."""

    error: str = Field(description="The finding and what is needed, as a sentence.")


class ServerMetadata(Shape):
    """The server, as the protocol describes it."""

    name: str = Field(description="The name of the server, always `fedlas`.")
    version: str = Field(description="The version of the service.")
    extensions: list[str] = Field(default_factory=list, description="Extensions of the protocol, in Triton's words.")


class ServerLive(Shape):
    """The sign that the process answers."""

    live: bool = Field(description="Always true: the process answers.")


class ServerReady(Shape):
    """The sign that models can be found and opened."""

    ready: bool = Field(description="Whether models can be found; false comes with 503.")


class ServedModels(Shape):
    """The models that answer inference."""

    models: list[str] = Field(description="Published names and ids of models.")


class TensorMetadata(Shape):
    """An input or output of a model."""

    name: TensorName
    datatype: str = Field(description="The type of its values, such as `FP32` or `BYTES`.")
    shape: list[int] = Field(description="The first is the batch; -1 is any size.")


class ModelMetadata(Shape):
    """A model, as the protocol describes it."""

    name: ModelName
    versions: list[str] = Field(description="Versions of the name; an id has one.")
    platform: str = Field(description="Always `onnxruntime_onnx`.")
    inputs: list[TensorMetadata] = Field(description="The inputs that a request must give.")
    outputs: list[TensorMetadata] = Field(description="The outputs of a request without parameters.")


class ModelReady(Shape):
    """The sign that a model answers."""

    name: ModelName
    ready: bool = Field(description="Whether it answers; false comes with 503.")


class IndexedModel(Shape):
    """A version of a name, or a model by its id, in the repository."""

    name: str = Field(description="The published name, or the id.")
    version: str = Field(description="The version, a number in a text.")
    state: Annotated[Literal["READY", "LOADING", "UNAVAILABLE"], OPEN] = Field(
        description="The state of the version, in Triton's words."
    )
    reason: str = Field(description="The reason why it is not READY; else empty.")


class StatisticDuration(Shape):
    """A number of events, and their time together."""

    count: int = Field(description="The number of events counted.")
    ns: int = Field(description="Nanoseconds of all of them together.")


class InferenceStatistics(Shape):
    """Requests by their outcome, and where their time went."""

    success: StatisticDuration = Field(description="Requests that were answered.")
    fail: StatisticDuration = Field(description="Requests that were refused or failed.")
    queue: StatisticDuration = Field(description="Requests that waited for a batch.")
    compute_input: StatisticDuration = Field(description=NOT_MEASURED)
    compute_infer: StatisticDuration = Field(description="Batches that the model computed.")
    compute_output: StatisticDuration = Field(description=NOT_MEASURED)
    cache_hit: StatisticDuration = Field(description=NO_CACHE)
    cache_miss: StatisticDuration = Field(description=NO_CACHE)


class BatchStatistics(Shape):
    """Counts of the batches of one size."""

    batch_size: int = Field(description="The number of rows of these batches.")
    compute_input: StatisticDuration = Field(description=NOT_MEASURED)
    compute_infer: StatisticDuration = Field(description="Batches that the model computed.")
    compute_output: StatisticDuration = Field(description=NOT_MEASURED)


class ModelStatistics(Shape):
    """Statistics of one version."""

    name: ModelName
    version: str = Field(description="The version, a number in a text.")
    last_inference: int = Field(description="Milliseconds since 1970; 0: never.")
    inference_count: int = Field(description="The number of rows that were answered.")
    execution_count: int = Field(description="The number of batches that were computed.")
    inference_stats: InferenceStatistics = Field(description="Requests and their times.")
    batch_stats: list[BatchStatistics] = Field(description="Batches by their number of rows.")


class Statistics(Shape):
    """Statistics since the service began."""

    model_stats: list[ModelStatistics] = Field(description="Statistics of each version.")


class ModelConfig(Shape):
    """A model in the words of Triton's configuration, as far as its tools read it."""

    model_config = ConfigDict(extra="allow")

    name: ModelName
    platform: str = Field(description="Always `onnxruntime_onnx`.")
    backend: str = Field(description="The backend, always `onnxruntime`.")
    max_batch_size: int = Field(description="The number of rows that a request may have.")
    input: list[dict[str, JsonValue]] = Field(description="Inputs, without the dimension of the batch.")
    output: list[dict[str, JsonValue]] = Field(description="Outputs, without the dimension of the batch.")
    instance_group: list[dict[str, JsonValue]] = Field(description="The device on which it runs, once it is open.")


class Done(Shape):
    """The answer to a change that needs no words."""


class IndexRequest(Body):
    """The models to list in the repository."""

    ready: bool = Field(False, description="List only the models that answer.")


class RepositoryParameters(Body):
    """Parameters that Triton's clients send along with `load` and `unload`."""

    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Any values; they change nothing, since a stored model is loaded as it is."
    )
