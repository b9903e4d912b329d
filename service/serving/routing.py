"""A route of the serving application: one declaration gives its path, its method and its OpenAPI operation."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from service.api.document.declarations import LOST, operation
from service.serving.messages import Answer

Json = dict[str, Any]
#: The schema of a body: that of a model, or as it is.
Schema = type[BaseModel] | Json
_PARAMETER = re.compile(r"\{(\w+)\}")
_REFERENCE = "#/components/schemas/{}"


@dataclass(frozen=True)
class ServingRoute:
    """`POST` to a path that the serving application answers itself.

    Attributes:
        path: with parameters as `{name}`, each one segment.
        handler: answers a request; the parameters are given in the order of the path.
        name: its operation id.
        body: the schema of the request by media type.
        response: the schema of the answer by media type.
        parameters: of query and headers, as the document has them.
        codes: of errors that it can give beside those of every operation.
        headers: of its answer.
    """

    path: str
    handler: Callable[..., Awaitable[Answer]]
    name: str
    description: str
    tag: str
    body: Mapping[str, Schema]
    response: Mapping[str, Schema]
    parameters: Sequence[Json] = ()
    codes: Sequence[str] = ()
    headers: Sequence[str] = ()
    body_description: str | None = None
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(_PARAMETER.sub("([^/]+)", self.path)))

    def openapi(self) -> Json:
        """The path item of the OpenAPI document, as its routes declare it."""
        body: Json = {"required": True, "content": _content(self.body)}
        if self.body_description:
            body["description"] = self.body_description
        declared = operation(*self.codes, at=LOST, headers={200: self.headers}, content=_content(self.response))
        declared["responses"]["200"]["description"] = "Successful Response"
        return {
            "post": {
                "tags": [self.tag],
                "summary": self.name.replace("_", " ").title(),
                "description": self.description,
                "operationId": self.name,
                "parameters": [*map(_path_parameter, _PARAMETER.findall(self.path)), *self.parameters],
                "requestBody": body,
                **declared,
            }
        }


def _content(schemas: Mapping[str, Schema]) -> Json:
    return {
        kind: {"schema": schema if isinstance(schema, dict) else _reference(schema)} for kind, schema in schemas.items()
    }


def _path_parameter(name: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _DESCRIPTIONS[name],
        "schema": {"type": "string", "title": name.title()},
    }


_DESCRIPTIONS = {"model": "A model id or a published name.", "version": "A number of the name's `versions`."}


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": _REFERENCE.format(model.__name__)}
