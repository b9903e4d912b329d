"""The operations that are answered in front of FastAPI, by the handlers of `service.predict.app`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fedlas.contract.options import AnswerOptions
from fedlas.contract.predictions import PredictRequest, PredictResponse, ScoreAnswer, ScoreRequest
from fedlas.contract.protocol import InferRequest, InferResponse
from service.api.plumbing.declarations import BINARY, LOST, OPTIONS_REFUSED, ROWS_REFUSED, SERVED, json_text, operation

Json = dict[str, Any]
#: The schema of a body: that of a model, or as it is.
Schema = type[BaseModel] | Json
_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PredictionOperation:
    """`POST` to a path that the serving application answers.

    Attributes:
        path: with parameters as `{name}`, each one segment.
        name: its operation id.
        body: the schema of the request by media type.
        response: the schema of the answer by media type.
        parameters: of query and headers, as the document has them.
        codes: of errors that it can give beside those of every operation.
        headers: of its answer.
    """

    path: str
    name: str
    description: str
    tag: str
    body: Mapping[str, Schema]
    response: Mapping[str, Schema]
    parameters: Sequence[Json] = ()
    codes: Sequence[str] = ()
    headers: Sequence[str] = ()
    body_description: str | None = None

    def openapi(self) -> Json:
        body: Json = {"required": True, "content": _content(self.body)}
        if self.body_description:
            body["description"] = self.body_description
        declared = operation(*self.codes, at=LOST, headers={200: self.headers}, content=_content(self.response))
        declared["responses"]["200"]["description"] = "Successful Response"
        return {
            "post": {
                "tags": [self.tag],
                "description": self.description,
                "operationId": self.name,
                "parameters": [*map(_path_parameter, _PARAMETER.findall(self.path)), *self.parameters],
                "requestBody": body,
                **declared,
            }
        }


def _content(schemas: Mapping[str, Schema]) -> Json:
    return {
        kind: {"schema": schema if isinstance(schema, dict) else {"$ref": f"#/components/schemas/{schema.__name__}"}}
        for kind, schema in schemas.items()
    }


def _path_parameter(name: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _DESCRIPTIONS[name],
        "schema": {"type": "string", "title": name.title()},
    }


_DESCRIPTIONS = {
    "model": "A model id or a published name.",
    "calibrator": "The id of a calibrator, or a published name.",
    "version": "A number of the name's `versions`.",
}


_MODEL_REFUSED = ("unknown_model", "model_not_ready", "model_unloaded", *SERVED, "overloaded", "deadline_exceeded")
#: Options in the query string are JSON, as they are within a body.
_QUERY_TYPES = {"top_k": "integer", "abstain_below": "number", "probabilities": "boolean"}


def _parameter(name: str, description: str, schema: Json, *, place: str) -> Json:
    return {"name": name, "in": place, "required": False, "description": description, "schema": schema}


_TIMEOUT = _parameter(
    "X-Request-Timeout", "Seconds for which the answer is of use; 504 after that.", {"type": "number"}, place="header"
)
_OPTIONS = [
    _parameter(
        name,
        f"{option.description} Beside a body that is not JSON.",
        {"type": _QUERY_TYPES[name]} if name in _QUERY_TYPES else json_text("PredictRequest", name),
        place="query",
    )
    for name, option in AnswerOptions.model_fields.items()
]


def _infer(path: str, name: str, description: str, *codes: str) -> PredictionOperation:
    return PredictionOperation(
        path,
        name=name,
        description=description,
        tag="inference protocol",
        parameters=[
            _parameter(
                "Inference-Header-Content-Length",
                "Bytes of JSON at the beginning of a body that goes on with binary tensors.",
                {"type": "integer"},
                place="header",
            ),
            _TIMEOUT,
        ],
        body={"application/json": InferRequest, "application/octet-stream": BINARY},
        body_description="JSON, or JSON followed by binary tensors.",
        response={"application/json": InferResponse, "application/octet-stream": BINARY},
        codes=[
            *(*_MODEL_REFUSED, *ROWS_REFUSED, *OPTIONS_REFUSED, *codes, "invalid_request"),
            *("unknown_output", "missing_parameter", "not_classifiable", "unsupported_datatype"),
        ],
        headers=["Inference-Header-Content-Length"],
    )


OPERATIONS = (
    PredictionOperation(
        "/v1/models/{model}/predict",
        name="predict",
        description="Predict with calibrated confidences. With `Accept: application/x-npy` "
        "the answer is the matrix of probabilities alone, (N, K) float32 in the order of the model's `class_names`.",
        tag="predictions",
        parameters=[*_OPTIONS, _TIMEOUT],
        body={
            "application/json": PredictRequest,
            "application/octet-stream": BINARY,
            "multipart/form-data": {
                "type": "object",
                "properties": {
                    "file": {
                        "type": "array",
                        "items": BINARY,
                        "description": "Image files, one for each row, in their order.",
                    },
                    "options": {"type": "string", "description": "JSON: an object of answer options."},
                },
            },
        },
        body_description="Rows as JSON; or one npy or image file, known by its first bytes, or named by a type "
        "of its own (`application/x-npy`, `image/png`, `image/jpeg`, `image/webp`, `image/bmp`); or a form of image "
        "files. Beside JSON, the options stand in the query string.",
        response={"application/json": PredictResponse, "application/x-npy": BINARY},
        codes=[
            *(*_MODEL_REFUSED, *ROWS_REFUSED, *OPTIONS_REFUSED, "invalid_form", "invalid_npy", "object_array"),
            *("no_column_names", "missing_columns", "unknown_columns", "doubled_columns"),
        ],
    ),
    PredictionOperation(
        "/v1/calibrators/{calibrator}/predict",
        name="predict_scores",
        description="Answer scores with the probability that they are right, its band, and whether the promise covers "
        "them.",
        tag="calibrators",
        parameters=[_TIMEOUT],
        body={"application/json": ScoreRequest},
        response={"application/json": ScoreAnswer},
        codes=[
            *_MODEL_REFUSED,
            "unknown_calibrator",
            "invalid_json",
            "invalid_request",
            "non_finite_output",
            "not_a_score",
        ],
    ),
    _infer(
        "/v2/models/{model}/infer",
        "infer",
        "Infer rows with a model; tensors may lie in binary behind `Inference-Header-Content-Length` bytes of JSON.",
    ),
    _infer(
        "/v2/models/{model}/versions/{version}/infer",
        "infer_of_version",
        "Infer rows with a version of a model; else as without a version.",
        "unknown_version",
    ),
)
