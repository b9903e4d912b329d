"""The OpenAPI document as people and generators read it, and its tables of codes, as the sources raise them."""

from __future__ import annotations

import ast
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

from fedlas.contract.error_codes import ERROR_CODES
from fedlas.contract.record_codes import RECORD_CODES
from service.http.problems import status_of
from service.processes.api import create_app
from service.registry import errors
from service.registry.settings import ServiceSettings
from service.rest_api import build_document
from tests.helpers import ROOT, Json
from tests.helpers.documented import SNAPSHOTS, document, of_protocol, parameters_of, resolved

DOCUMENTS = [document(beginning) for beginning in SNAPSHOTS]
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for part in DOCUMENTS
    for path, item in part["paths"].items()
    for method, operation in item.items()
}
SCHEMAS: Json = {name: schema for part in DOCUMENTS for name, schema in part["components"]["schemas"].items()}
#: Answers that are files, texts or nothing.
WITHOUT_EXAMPLE = re.compile(r"delete_|revoke_|download_|_diagram$|_page$|^metrics$|^append_to_upload$")


def contents() -> Iterator[tuple[str, Json]]:
    """Every content in JSON, of requests and of good answers, with its operation."""
    for name, (path, _, operation) in OPERATIONS.items():
        for part in [operation.get("requestBody", {}), *operation["responses"].values()]:
            content = resolved(part, path).get("content", {}).get("application/json")
            if content is not None:
                yield name, content


def test_the_document_is_sound() -> None:
    """OpenAPI 3.1, as its validator says; no operation is in both."""
    for part in DOCUMENTS:
        validate(part)
    assert {path.startswith("/v2") for path in document("/v2")["paths"]} == {True}
    assert {path.startswith("/v2") for path in document()["paths"]} == {False}


def test_the_contract_is_small_enough_to_read() -> None:
    """The document of `/v1` as it is served, without samples, has at most 310 kB."""

    def without_samples(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                key: without_samples(value) for key, value in part.items() if key not in ("example", "x-codeSamples")
            }
        return [without_samples(value) for value in part] if isinstance(part, list) else part

    text = json.dumps(without_samples(document()), separators=(",", ":"), ensure_ascii=False)
    assert len(text.encode()) <= 310_000


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
    """Every operation, tag, parameter, schema and field; a field and a parameter in 25 characters at least."""
    tags = [tag for part in DOCUMENTS for tag in part["tags"]]
    assert all(tag["description"] for tag in tags)
    named = {tag["name"] for tag in tags}
    for name, (path, _, operation) in OPERATIONS.items():
        assert operation["description"], name
        assert set(operation["tags"]) <= named, path
        short = [one["name"] for one in parameters_of(path, operation) if len(one.get("description", "")) < 25]
        assert short == [], name
    for name, schema in SCHEMAS.items():
        missing = [key for key, field in schema.get("properties", {}).items() if len(field.get("description", "")) < 25]
        assert missing == [], name
    assert re.findall(r'"description": "None\b[^"]*"', json.dumps(DOCUMENTS)) == [], "of what has no description"


def test_operation_ids_are_readable() -> None:
    """Each is its own, and says nothing twice."""
    assert len(OPERATIONS) == sum(len(item) for part in DOCUMENTS for item in part["paths"].values())
    for name in OPERATIONS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert name.count("_of_version") <= 1


def test_errors_have_their_media_type() -> None:
    """Problems under `/v1`, the protocol's own form under `/v2`; each answer names its request id."""
    for path, _, operation in OPERATIONS.values():
        kind = "application/json" if path.startswith("/v2") else "application/problem+json"
        for status, response in operation["responses"].items():
            found = resolved(response, path)
            assert "X-Request-Id" in found["headers"], (path, status)
            if "x-error-codes" in found:
                assert set(found["content"]) == {kind}, (path, status)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_an_example(name: str) -> None:
    """Where it answers JSON, and where it takes JSON."""
    if WITHOUT_EXAMPLE.search(name):
        return
    assert [content for known, content in contents() if known == name and "example" in content], name


def test_examples_are_valid() -> None:
    """An example is valid against its schema."""
    registries = {
        beginning: Registry().with_resource("urn:document", Resource(document(beginning), DRAFT202012))
        for beginning in SNAPSHOTS
    }
    for name, content in contents():
        registry = registries[of_protocol(OPERATIONS[name][0])]
        if "example" in content:
            schema = _absolute(content["schema"])
            errors = list(Draft202012Validator(schema, registry=registry).iter_errors(content["example"]))
            assert errors == [], (name, [(error.json_path, error.message[:200]) for error in errors[:3]])


def _absolute(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: f"urn:document{value}" if key == "$ref" else _absolute(value) for key, value in schema.items()}
    return [_absolute(part) for part in schema] if isinstance(schema, list) else schema


#: Errors of the service by the name of their class; their code is the first argument.
SERVICE = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
#: Folders of the library and the worker, whose codes records show.
RECORDS = {
    *("UnsupportedModel", "BadDataset", "Mismatch", "PreconditionFailed", "ExportError", "FedLASError"),
    *("RecordError", "ChildError", "BadImage"),
}
#: Places of objects in a notebook, which no record has.
NOTEBOOK = ("fedlas/conversion/", "fedlas/client/", "fedlas/cli/", "fedlas/sklearn.py", "fedlas/calibration/")


def raised(roots: tuple[str, ...], names: set[str]) -> Iterator[tuple[str, str, str]]:
    """Class, code and place of every error that is made with a code that is written there."""
    for root in roots:
        for path in sorted((ROOT / root).rglob("*.py")):
            place = str(path.relative_to(ROOT))
            if place.startswith(NOTEBOOK):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
                if isinstance(node, ast.Call) and called in names:
                    given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "code")]
                    for part in (part for value in given for part in codes_in(value)):
                        yield called, part, f"{place}:{node.lineno}"


def codes_in(value: ast.expr) -> Iterator[str]:
    """The codes that an expression may be."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from codes_in(value.body)
        yield from codes_in(value.orelse)


def test_every_code_of_an_answer_is_in_the_table() -> None:
    """A code in the table has the status of its error."""
    found = list(raised(("service",), SERVICE))
    assert len(found) > 100
    for called, code, place in found:
        assert code in ERROR_CODES, f"{place}: {code} is missing in fedlas/contract/error_codes.py"
        status = status_of(getattr(errors, called).__new__(getattr(errors, called)))
        known = (ERROR_CODES[code].status, *ERROR_CODES[code].also)
        assert status in known, f"{place}: {code} comes with {status}, the table says {known}"


def test_every_code_of_a_record_is_in_the_table() -> None:
    """The table has every code of the library and the worker about a file, a job or a batch."""
    found = list(raised(("fedlas", "worker"), RECORDS))
    assert len(found) > 150
    missing = {code: place for _, code, place in found if code not in RECORD_CODES}
    assert missing == {}, "missing in fedlas/contract/record_codes.py"


def test_no_code_is_idle() -> None:
    """Each code of the table stands in the sources, and is named by an operation or by the transport alone."""
    text = "\n".join(path.read_text() for path in (ROOT / "service").rglob("*.py") if path.name != "error_codes.py")
    idle = [code for code in ERROR_CODES if f'"{code}"' not in text]
    derived = {code for code in idle if code.startswith(("unknown_", "invalid_")) or code.endswith("_unreachable")}
    assert set(idle) - derived == set()


@pytest.mark.parametrize("code", ERROR_CODES)
def test_a_code_says_what_to_do(code: str) -> None:
    """Two sentences: what has happened, and what to do."""
    known = ERROR_CODES[code]
    assert known.meaning.endswith(".")
    assert known.remedy.endswith(".")
    assert 400 <= known.status < 600


def test_operations_name_known_codes_at_their_status() -> None:
    """Operations under `/v1` name the status of each code; `/v2` has statuses of its own."""
    for path, _, operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            for code in response.get("x-error-codes", ()):
                assert code in ERROR_CODES or code in RECORD_CODES
                if code in ERROR_CODES and path.startswith("/v1") and code not in RECORD_CODES:
                    assert int(status) in (ERROR_CODES[code].status, *ERROR_CODES[code].also), (path, code)
