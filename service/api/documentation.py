"""The OpenAPI document: what FastAPI finds by itself, and the bodies that handlers parse by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.api.oip_schemas import InferRequest
from service.api.predictions import PredictRequest
from service.registry.contract import JobRequest

_PARSED_BY_HAND = (InferRequest, JobRequest, PredictRequest)


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the document, built once per application."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        _, definitions = models_json_schema(
            [(model, "validation") for model in _PARSED_BY_HAND], ref_template="#/components/schemas/{model}"
        )
        document["components"]["schemas"] |= definitions["$defs"]
        app.openapi_schema = document
    return app.openapi_schema
