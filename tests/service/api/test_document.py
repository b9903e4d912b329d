"""The OpenAPI document as people and generators read it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi._compat.v2 import get_cached_model_fields
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from service.api.document.record_texts import BY_NAME, PARAMETERS, RECORD_TEXTS
from service.api.document.report_texts import REPORT_TEXTS
from service.app import create_app
from service.rest_api import build_document
from service.settings import ServiceSettings
from tests.helpers.documented import document, resolved

Json = dict[str, Any]

OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, item in document()["paths"].items()
    for method, operation in item.items()
}
SCHEMAS: Json = document()["components"]["schemas"]
#: Answers that are files, texts or nothing.
WITHOUT_EXAMPLE = re.compile(r"delete_|download_|_diagram$|_page$|^metrics$|^append_to_upload$")


def contents() -> Iterator[tuple[str, Json]]:
    """Every content in JSON, of requests and of good answers, with its operation."""
    for name, (_, _, operation) in OPERATIONS.items():
        parts = [operation.get("requestBody", {}), *operation["responses"].values()]
        for part in parts:
            content = resolved(part).get("content", {}).get("application/json")
            if content is not None:
                yield name, content


def test_the_document_is_sound() -> None:
    """OpenAPI 3.1, as its validator says."""
    validate(document())


def test_it_is_built_beside_requests(settings: ServiceSettings) -> None:
    """The thread that builds it finds a cache of FastAPI filled: two threads that fill it break each other."""
    get_cached_model_fields.cache_clear()
    app = create_app(settings).fastapi
    build, misses = app.openapi, []

    def counted() -> Json:
        before = get_cached_model_fields.cache_info().misses
        built = build()
        misses.append(get_cached_model_fields.cache_info().misses - before)
        return built

    app.openapi = counted  # type: ignore[method-assign]
    asyncio.run(build_document(app))
    assert misses == [0]


def test_everything_is_described() -> None:
    """Every operation, tag, parameter, schema and field."""
    assert all(tag["description"] for tag in document()["tags"])
    named = {tag["name"] for tag in document()["tags"]}
    for name, (path, _, operation) in OPERATIONS.items():
        assert operation["description"], name
        assert set(operation["tags"]) <= named, path
        assert [one["name"] for one in operation.get("parameters", ()) if not one.get("description")] == [], name
    for name, schema in SCHEMAS.items():
        missing = [key for key, field in schema.get("properties", {}).items() if not field.get("description")]
        assert missing == [], name
    assert re.findall(r'"description": "None\b[^"]*"', json.dumps(document())) == [], "of what has no description"


def test_no_text_is_idle() -> None:
    """The tables of texts describe fields and parameters that there are."""
    fields = {name: schema.get("properties", {}) for name, schema in SCHEMAS.items()}
    for name, texts in {**RECORD_TEXTS, **REPORT_TEXTS}.items():
        assert set(texts) <= fields.get(name, {}).keys(), name
    assert set(BY_NAME) <= {key for schema in fields.values() for key in schema}
    parameters = {one["name"] for _, _, operation in OPERATIONS.values() for one in operation.get("parameters", ())}
    assert set(PARAMETERS) <= parameters


def test_operation_ids_are_readable() -> None:
    """Each is its own, and says nothing twice."""
    assert len(OPERATIONS) == sum(len(item) for item in document()["paths"].values())
    for name in OPERATIONS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert name.count("_of_version") <= 1


def test_keys_are_optional_and_probes_open() -> None:
    """A bearer key or none, as the operator has it; probes need none."""
    assert document()["security"] == [{"bearer": []}, {}]
    assert document()["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert OPERATIONS["readyz"][2]["security"] == []
    assert "security" not in OPERATIONS["predict"][2]
    assert document()["servers"][0]["url"] == "/"


def test_errors_have_their_media_type() -> None:
    """Problems under `/v1`, the protocol's own form under `/v2`; each answer names its request id."""
    for path, _, operation in OPERATIONS.values():
        kind = "application/json" if path.startswith("/v2") else "application/problem+json"
        for status, response in operation["responses"].items():
            found = resolved(response)
            assert "X-Request-Id" in found["headers"], (path, status)
            if "x-error-codes" in found:
                assert set(found["content"]) == {kind}, (path, status)


def test_headers_of_a_creation() -> None:
    """Where the record is, when to come again, and what tag it has."""
    assert {"Location", "Retry-After"} <= OPERATIONS["create_job"][2]["responses"]["202"]["headers"].keys()
    assert {"ETag", "Retry-After"} <= OPERATIONS["get_job"][2]["responses"]["200"]["headers"].keys()
    assert "304" in OPERATIONS["get_job"][2]["responses"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_an_example(name: str) -> None:
    """Where it answers JSON, and where it takes JSON."""
    if WITHOUT_EXAMPLE.search(name):
        return
    found = [content for known, content in contents() if known == name and "example" in content]
    assert found, name


def test_examples_are_valid() -> None:
    """Each against its schema."""
    resource = Resource(contents=document(), specification=DRAFT202012)
    registry = Registry().with_resource("urn:document", resource)
    for name, content in contents():
        if "example" in content:
            schema = _absolute(content["schema"])
            errors = list(Draft202012Validator(schema, registry=registry).iter_errors(content["example"]))
            assert errors == [], (name, [(error.json_path, error.message[:200]) for error in errors[:3]])


def _absolute(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: f"urn:document{value}" if key == "$ref" else _absolute(value) for key, value in schema.items()}
    return [_absolute(part) for part in schema] if isinstance(schema, list) else schema
