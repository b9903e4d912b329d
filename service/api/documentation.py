"""The OpenAPI document: FastAPI's own, the serving application's paths, and the bodies that handlers parse by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service.registry.contract import JobRequest
from service.registry.documents import JsonObject


def openapi_document(
    app: FastAPI,
    paths: Mapping[str, JsonObject],
    *,
    requests: Sequence[type[BaseModel]],
    responses: Sequence[type[BaseModel]],
) -> JsonObject:
    """Return the document, built once per application.

    Args:
        paths: path items of what is answered in front of FastAPI.
        requests, responses: the models whose schemas they refer to.
    """
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document["components"]["schemas"]
        schemas |= _schemas([JobRequest, *requests], "validation")
        # As FastAPI writes the schemas of its own responses.
        schemas |= jsonable_encoder(
            _schemas(responses, "serialization"), exclude_none=True
        )  # as FastAPI writes its own
        document["paths"] |= paths
        app.openapi_schema = document
    return app.openapi_schema


def _schemas(models: Sequence[type[BaseModel]], mode: JsonSchemaMode) -> JsonObject:
    _, schemas = models_json_schema([(model, mode) for model in models], ref_template="#/components/schemas/{model}")
    definitions: JsonObject = schemas["$defs"]
    return definitions
