"""A route of the serving application: one declaration gives its path, its method and its OpenAPI operation."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from service.serving.messages import Answer

Json = dict[str, Any]
_PARAMETER = re.compile(r"\{(\w+)\}")
_BINARY: Json = {"type": "string", "format": "binary"}
_REFERENCE = "#/components/schemas/{}"


@dataclass(frozen=True)
class ServingRoute:
    """`POST` to a path that the serving application answers itself.

    Attributes:
        path: with parameters as `{name}`, each one segment.
        handler: answers a request; the parameters are given in the order of the path.
        name: its operation id, unless `operation_id` is given.
        body: the schema of the request by media type; None stands for bytes.
        response: the schema of the answer by media type; None stands for bytes.
        errors: as FastAPI takes them: what any operation of this protocol may answer.
    """

    path: str
    handler: Callable[..., Awaitable[Answer]]
    name: str
    description: str
    tag: str
    body: Mapping[str, type[BaseModel] | None]
    response: Mapping[str, type[BaseModel] | None]
    errors: Mapping[int | str, Mapping[str, Any]]
    body_description: str | None = None
    operation_id: str | None = None
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(_PARAMETER.sub("([^/]+)", self.path)))

    def openapi(self) -> Json:
        """The path item of the OpenAPI document."""
        body: Json = {"required": True, "content": _content(self.body)}
        if self.body_description:
            body["description"] = self.body_description
        operation = {
            "tags": [self.tag],
            "summary": self.name.replace("_", " ").title(),
            "description": self.description,
            "operationId": self.operation_id or self.name,
            "parameters": [_path_parameter(name) for name in _PARAMETER.findall(self.path)],
            "requestBody": body,
            "responses": {
                "200": {"description": "Successful Response", "content": _content(self.response)},
                **{str(code): _error(**given) for code, given in self.errors.items()},
            },
        }
        return {"post": operation}


def _content(schemas: Mapping[str, type[BaseModel] | None]) -> Json:
    return {kind: {"schema": _BINARY if model is None else _reference(model)} for kind, model in schemas.items()}


def _error(*, model: type[BaseModel], description: str, content: Mapping[str, Json] | None = None) -> Json:
    return {"description": description, "content": {**_content({"application/json": model}), **(content or {})}}


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "title": name.title()}}


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": _REFERENCE.format(model.__name__)}
