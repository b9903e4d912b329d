"""The schemas of the Open Inference Protocol in the OpenAPI document; `service.inference.oip` reads and writes them."""

from __future__ import annotations

from pydantic import BaseModel, Field, JsonValue

from service.api.problems import Responses

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


#: For the OpenAPI document: what any operation may answer.
RESPONSES: Responses = {
    "4XX": {"model": OipError, "description": "Refused."},
    "5XX": {"model": OipError, "description": "Not now, or our mistake."},
}
