"""The routes of the serving application; `service.api.document.prediction_operations` describes them for clients."""

from __future__ import annotations

from service.serving.infer import infer
from service.serving.predict import predict
from service.serving.routing import ServingRoute

ROUTES = (
    ServingRoute("/v1/models/{model}/predict", predict),
    ServingRoute("/v2/models/{model}/infer", infer),
    ServingRoute("/v2/models/{model}/versions/{version}/infer", infer),
)
