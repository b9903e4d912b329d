"""An operation that is answered in front of FastAPI, as the OpenAPI document has it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from service.api.document.declarations import LOST, operation

Json = dict[str, Any]
#: The schema of a body: that of a model, or as it is.
Schema = type[BaseModel] | Json
_PARAMETER = re.compile(r"\{(\w+)\}")
_REFERENCE = "#/components/schemas/{}"


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
        """Its path item."""
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
