"""The client's records are those of the HTTP contract."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from fedlas.client import records
from fedlas.contract.base import Shape
from fedlas.contract.events import JobEvent, Progress
from fedlas.contract.figures import BinnedEstimate, Estimate
from fedlas.contract.records import ModelRecord

Json = dict[str, Any]
CONTRACT: Json = json.loads((Path(__file__).parents[3] / "openapi" / "openapi.json").read_text())
SCHEMAS: dict[str, Json] = CONTRACT["components"]["schemas"]
_NAME = r"#/components/schemas/([^\"]+)"
#: Records that are called otherwise than in the contract, which knows them by longer names.
NAMES = {
    "Model": "ModelRecord",
    "Dataset": "DatasetRecord",
    "Calibrator": "CalibratorRecord",
    "Name": "NameRecord",
    "Upload": "UploadRecord",
    "Event": "EventRecord",
    "Delivery": "DeliveryRecord",
    "ReportDocument": "Report",
}
#: Not records of the contract: bases, generic, or of `/v2`, which has schemas of its own.
OTHERS = {"Document", "Record", "UploadedRecord", "RunRecord", "Page", "ByModel", "Server"}


def documents() -> Iterator[type[Shape]]:
    """All records of the client, each once."""
    for module in iter_modules(records.__path__, "fedlas.client.records."):
        for _, kind in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(kind, Shape) and kind.__module__ == module.name and kind.__name__ not in OTHERS:
                yield kind


def words(schema: Json) -> set[str]:
    """The types that a schema allows, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {"any"} if name == "JsonValue" else {name.rstrip("_").partition("_")[0]}
    if "anyOf" in schema or "oneOf" in schema:
        return {word for part in schema.get("anyOf") or schema["oneOf"] for word in words(part)}
    if "const" in schema or "enum" in schema:
        return {"number" if isinstance(value, int) else "string" for value in schema.get("enum", [schema.get("const")])}
    kind = schema.get("type", "any")
    if kind == "array":
        return {f"[{word}]" for word in words(schema.get("items", {}))}
    if kind == "object":
        inner = schema.get("additionalProperties", True)
        return {f"{{{word}}}" for word in (words(inner) if isinstance(inner, dict) else {"any"})}
    return {"number" if kind == "integer" else kind}


def joined(schema: Json) -> Json:
    """A schema of alternatives as one, each of whose fields may be what it is in any of them."""
    if "oneOf" not in schema:
        return schema
    parts = [SCHEMAS[part["$ref"].rpartition("/")[2]] for part in schema["oneOf"]]
    names = {name for part in parts for name in part["properties"]}
    fields = {name: {"anyOf": [p["properties"][name] for p in parts if name in p["properties"]]} for name in names}
    return {"properties": fields, "required": list(set.intersection(*(set(part["required"]) for part in parts)))}


def types_of(hint: Any) -> set[str]:
    """The same of a type of the client."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {word for part in parts for word in types_of(part)}
    if origin is Literal:
        return {"string"}
    if origin is list:
        return {f"[{word}]" for word in types_of(parts[0])}
    if origin is dict:
        return {f"{{{word}}}" for word in types_of(parts[1])}
    simple = {str: "string", datetime: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
    if hint in simple:
        return {simple[hint]}
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        name = hint.__name__.partition("[")[0]
        return {NAMES.get(name, name)} | ({"Estimate"} if hint is BinnedEstimate else set())
    assert hint is Any or isinstance(hint, TypeVar) or "JsonValue" in str(hint), hint
    return {"any"}


@pytest.mark.parametrize("kind", list(documents()), ids=lambda kind: kind.__name__)
def test_a_record_has_the_fields_of_the_contract(kind: type[Shape]) -> None:
    """Its names are those of the schema, each may be what the schema allows, and what may be missing may be missing."""
    schema = joined(SCHEMAS[NAMES.get(kind.__name__, kind.__name__)])
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    inherited = set(Estimate.model_fields) if kind is BinnedEstimate else set()
    assert set(fields) - inherited == set(schema["properties"]) - inherited
    for name, part in schema["properties"].items():
        assert words(part) <= types_of(fields[name].annotation), name
        assert fields[name].is_required() <= (name in schema.get("required", [])), name


def answered() -> set[str]:
    """The schemas that a 2xx answer under `/v1` may hold, or hold within."""
    good = [
        answer
        for path, operations in CONTRACT["paths"].items()
        for operation in operations.values()
        if path.startswith("/v1/") and isinstance(operation, dict)
        for status, answer in operation.get("responses", {}).items()
        if status.startswith("2")
    ]
    found: set[str] = set()
    left = set(re.findall(_NAME, json.dumps(good)))
    while left:
        found |= left
        left = {name for known in left for name in re.findall(_NAME, json.dumps(SCHEMAS[known]))} - found
    return found


def test_every_answer_of_the_contract_has_a_record() -> None:
    """Whatever an operation under `/v1` answers is typed."""
    known = {NAMES.get(kind.__name__, kind.__name__) for kind in documents()} | {"Predictions", "JsonValue"}
    generic = {name for name in SCHEMAS if name.startswith(("Page_", "ByModel_")) or name.endswith("Event")}
    assert answered() - generic - known == set()


def test_what_a_newer_server_adds_is_kept() -> None:
    """Unknown fields and words come through, and come back in `raw`."""
    at = "2026-05-04T10:00:00Z"
    answer = {"id": "mdl_1", "name": "m", "version": 1, "status": "resting", "origin": "grown", "bytes": 1}
    answer |= {"sha256": "0", "created_at": at, "calibrated": True, "format": None, "mood": {"good": [1]}}
    model = ModelRecord.model_validate(answer)
    assert (model.status, model.raw) == ("resting", answer)
    event = JobEvent.model_validate({"id": 1, "type": "dance", "at": at, "data": {"status": 3}})
    assert event.data == {"status": 3}
    known = {"id": 1, "type": "progress", "at": "2026-05-04T10:00:00Z", "data": {"fraction": 0.5, "status": "x"}}
    assert isinstance(JobEvent.model_validate(known).data, Progress)
