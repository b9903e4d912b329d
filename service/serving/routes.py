"""The routes of the serving application: all that is answered in front of FastAPI."""

from __future__ import annotations

from service.api import oip_schemas, problems
from service.api.oip_schemas import InferRequest, InferResponse
from service.api.predict_schemas import Predictions, PredictRequest
from service.serving.infer import infer
from service.serving.predict import predict
from service.serving.routing import ServingRoute


def _infer_route(path: str, name: str, description: str, operation_id: str | None = None) -> ServingRoute:
    return ServingRoute(
        path,
        infer,
        name=name,
        description=description,
        tag="open inference protocol",
        body={"application/json": InferRequest, "application/octet-stream": None},
        response={"application/json": InferResponse, "application/octet-stream": None},
        errors=oip_schemas.RESPONSES,
        operation_id=operation_id,
    )


ROUTES = (
    ServingRoute(
        "/v1/models/{model}/predict",
        predict,
        name="predict",
        description="Predict the rows of this request with calibrated confidences.",
        tag="predictions",
        body={
            "application/json": PredictRequest,
            "application/x-npy": None,
            "multipart/form-data": None,
            "image/*": None,
        },
        body_description="Rows in any of these formats; beside JSON the options stand in the query string.",
        response={"application/json": Predictions},
        errors=problems.RESPONSES,
    ),
    _infer_route(
        "/v2/models/{model}/infer",
        "infer",
        "Infer; with `Inference-Header-Content-Length`, tensors lie in binary behind so many bytes of JSON.",
    ),
    _infer_route(
        "/v2/models/{model}/versions/{version}/infer",
        "infer_with_version",
        "The same with one version.",
        operation_id="infer_with_version_of_version",
    ),
)
