"""The operations that are answered in front of FastAPI, by the handlers of `service.serving.routes`."""

from __future__ import annotations

from typing import Any

from service.api.document.declarations import BINARY, OPTIONS_REFUSED, ROWS_REFUSED, SERVED
from service.api.document.prediction_operation import PredictionOperation
from service.api.oip_schemas import InferRequest, InferResponse
from service.api.predict_schemas import Predictions, PredictRequest
from service.registry.answer_options import AnswerOptions

Json = dict[str, Any]

_MODEL_REFUSED = ("unknown_model", "model_not_ready", "model_unloaded", *SERVED, "overloaded", "deadline_exceeded")
#: Options in the query string are JSON, as they are within a body.
_QUERY_TYPES = {"top_k": "integer", "abstain_below": "number", "probabilities": "boolean"}


def _parameter(name: str, description: str, kind: str, *, place: str) -> Json:
    return {"name": name, "in": place, "required": False, "description": description, "schema": {"type": kind}}


_TIMEOUT = _parameter(
    "X-Request-Timeout", "Seconds for which the answer is of use; 504 after that.", "number", place="header"
)
_OPTIONS = [
    _parameter(
        name, f"{option.description} Beside a body that is not JSON.", _QUERY_TYPES.get(name, "string"), place="query"
    )
    for name, option in AnswerOptions.model_fields.items()
]
_FORM: Json = {
    "type": "object",
    "properties": {
        "file": {"type": "array", "items": BINARY, "description": "Image files, one for each row, in their order."},
        "options": {"type": "string", "description": "JSON: an object of answer options."},
    },
}


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
                "integer",
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
        description="Predict the rows of this request with calibrated confidences. With `Accept: application/x-npy` "
        "the answer is the matrix of probabilities alone, (N, K) float32 in the order of the model's `class_names`.",
        tag="predictions",
        parameters=[*_OPTIONS, _TIMEOUT],
        body={
            "application/json": PredictRequest,
            "application/octet-stream": BINARY,
            "multipart/form-data": _FORM,
        },
        body_description="Rows as JSON; or one npy or image file, which is told by its first bytes, or named by a type "
        "of its own (`application/x-npy`, `image/png`, `image/jpeg`, `image/webp`, `image/bmp`); or a form of image "
        "files. Beside JSON, the options stand in the query string.",
        response={"application/json": Predictions, "application/x-npy": BINARY},
        codes=[
            *(*_MODEL_REFUSED, *ROWS_REFUSED, *OPTIONS_REFUSED, "invalid_form", "invalid_npy", "object_array"),
            *("no_column_names", "missing_columns", "unknown_columns", "doubled_columns"),
        ],
    ),
    _infer(
        "/v2/models/{model}/infer",
        "infer",
        "Infer; with `Inference-Header-Content-Length`, tensors lie in binary behind so many bytes of JSON.",
    ),
    _infer(
        "/v2/models/{model}/versions/{version}/infer",
        "infer_of_version",
        "The same with one version.",
        "unknown_version",
    ),
)
