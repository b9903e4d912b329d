"""The check of released documents: what breaks clients is found, and what does not is let through."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT, Json
from tests.helpers.compatibility import breaks, main

DOCUMENT: Json = json.loads((ROOT / "openapi" / "openapi.json").read_text())


def edited(edit: Callable[[Json], object]) -> Json:
    """The document after an edit."""
    document = copy.deepcopy(DOCUMENT)
    edit(document)
    return document


def schema(document: Json, name: str) -> Json:
    found: Json = document["components"]["schemas"][name]
    return found


def field(document: Json, name: str, called: str) -> Json:
    found: Json = schema(document, name)["properties"][called]
    return found


def need(document: Json, name: str, field: str) -> None:
    schema(document, name).setdefault("required", []).append(field)


def operation(document: Json, path: str, method: str = "get") -> Json:
    found: Json = document["paths"][path][method]
    return found


BREAKING: dict[str, tuple[Callable[[Json], object], str]] = {
    "path": (
        lambda d: d["paths"].pop("/v1/jobs/{job_id}/report"),
        "GET /v1/jobs/{job_id}/report: the operation is gone",
    ),
    "operation": (lambda d: d["paths"]["/v1/jobs"].pop("post"), "POST /v1/jobs: the operation is gone"),
    "id": (lambda d: operation(d, "/v1/jobs").update(operationId="jobs"), "its id was list_jobs and is jobs"),
    "answered field": (lambda d: schema(d, "JobRecord")["properties"].pop("verdict"), ".verdict: the field is gone"),
    "field that may be missing": (
        lambda d: schema(d, "JobRecord")["required"].remove("id"),
        ".id: the field may be missing",
    ),
    "field of a request": (lambda d: schema(d, "JobRequest")["properties"].pop("seed"), ".seed: the field is gone"),
    "needed field": (lambda d: need(d, "JobRequest", "seed"), ".seed: the field is needed now"),
    "value of a request": (
        lambda d: field(d, "JobRequest", "method")["enum"].remove("mbls"),
        "method: 'mbls' is taken no more",
    ),
    "type of a request": (
        lambda d: field(d, "JobRequest", "seed").update(type="string"),
        "seed: integer is taken no more",
    ),
    "type of an answer": (lambda d: field(d, "JobRecord", "seed").update(type="string"), "seed: string may come now"),
    "null in an answer": (
        lambda d: schema(d, "ModelRecord")["properties"].update(name={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        "name: null may come now",
    ),
    "smaller limit": (
        lambda d: schema(d, "BudgetInput")["properties"]["candidates"].update(maximum=10),
        "candidates: maximum was 1000 and is 10",
    ),
    "status": (lambda d: operation(d, "/v1/jobs", "post")["responses"].pop("202"), "it answers 202 no more"),
    "media type": (
        lambda d: operation(d, "/v1/models/{model}/predict", "post")["requestBody"]["content"].pop(
            "multipart/form-data"
        ),
        "the media type multipart/form-data is gone",
    ),
    "parameter": (lambda d: operation(d, "/v1/jobs")["parameters"].pop(), "is gone"),
    "needed parameter": (
        lambda d: operation(d, "/v1/jobs")["parameters"].append(
            {"name": "tenant", "in": "query", "required": True, "schema": {"type": "string"}}
        ),
        "the query parameter tenant is needed now",
    ),
    "header": (
        lambda d: operation(d, "/v1/jobs", "post")["responses"]["202"]["headers"].pop("Location"),
        "the header Location is gone",
    ),
}

HARMLESS: dict[str, Callable[[Json], object]] = {
    "nothing": lambda d: None,
    "new operation": lambda d: d["paths"].update({"/v1/usage": d["paths"]["/healthz"]}),
    "new field of an answer": lambda d: schema(d, "JobRecord")["properties"].update(cost={"type": "number"}),
    "new option": lambda d: schema(d, "JobRequest")["properties"].update(tenant={"type": "string"}),
    "another value of a request": lambda d: schema(d, "JobRequest")["properties"]["method"]["enum"].append("dirichlet"),
    "larger limit": lambda d: schema(d, "BudgetInput")["properties"]["candidates"].update(maximum=5000),
    "new kind of event": lambda d: schema(d, "EventList")["properties"]["data"]["items"]["oneOf"].append(
        {"type": "object", "properties": {"type": {"const": "checkpoint"}, "data": {"type": "object"}}}
    ),
    "error": lambda d: operation(d, "/v1/jobs")["responses"].pop("422"),
    "text": lambda d: schema(d, "JobRecord")["properties"]["verdict"].update(description="Another."),
    "optional parameter": lambda d: operation(d, "/v1/jobs")["parameters"].append(
        {"name": "tenant", "in": "query", "required": False, "schema": {"type": "string"}}
    ),
}


@pytest.mark.parametrize("name", BREAKING)
def test_what_breaks_clients_is_found(name: str) -> None:
    """Each edit that breaks a client is reported, with its place."""
    edit, told = BREAKING[name]
    assert any(told in line for line in breaks(DOCUMENT, edited(edit))), breaks(DOCUMENT, edited(edit))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_breaks_nobody_passes(name: str) -> None:
    """Growth, texts and errors break no client."""
    assert breaks(DOCUMENT, edited(HARMLESS[name])) == []


@pytest.mark.parametrize(("version", "code"), [("0.1.1", 1), ("0.2.0", 0), ("1.0.0", 0)])
def test_the_version_may_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, code: int) -> None:
    """A break passes where the version's major number, or while that is 0 its minor one, was raised."""
    present = edited(lambda d: d["paths"].pop("/v1/jobs"))
    present["info"]["version"] = version
    (tmp_path / "old.json").write_text(json.dumps({**DOCUMENT, "info": {**DOCUMENT["info"], "version": "0.1.0"}}))
    (tmp_path / "new.json").write_text(json.dumps(present))
    assert main([str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == code
    assert "GET /v1/jobs: the operation is gone" in capsys.readouterr().out


def test_the_present_document_keeps_what_was_released() -> None:
    """Clients of the last release go on working, as `make check` says, too."""
    assert main([str(ROOT / "openapi" / "released.json"), str(ROOT / "openapi" / "openapi.json")]) == 0
