"""Answers against the OpenAPI document: status and error code must be among those that the operation names."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import httpx

from tests.helpers import Json

FOLDER = Path(__file__).parents[2] / "openapi"
#: Documents by the beginning of the paths that they describe.
SNAPSHOTS = {"/v2": FOLDER / "openapi-v2.json", "": FOLDER / "openapi.json"}
#: The transport refuses these before any operation is known; the introduction of the document names them.
_OF_ANY_PATH = {405, 408, 417, 505}


@cache
def document(path: str = "") -> Json:
    """The snapshot of the document that describes a path."""
    file = next(file for beginning, file in SNAPSHOTS.items() if path.startswith(beginning))
    found: Json = json.loads(file.read_text())
    return found


def of_protocol(path: str) -> str:
    """The beginning of a path by which `document` finds its document."""
    return "/v2" if path.startswith("/v2") else ""


@cache
def _operations() -> list[tuple[re.Pattern[str], Json]]:
    # Paths without parameters first: `/v2/models/stats` is no model.
    found = [item for beginning in SNAPSHOTS for item in document(beginning)["paths"].items()]
    paths = sorted(found, key=lambda item: item[0].count("{"))
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), item) for path, item in paths]


def operation_of(method: str, path: str) -> Json | None:
    """The operation that a request is for; None where the document has none."""
    item = next((item for pattern, item in _operations() if pattern.fullmatch(path)), {})
    found: Json | None = item.get("get" if method == "HEAD" else method.lower())
    return found


def resolved(part: Json, path: str = "") -> Json:
    """The part to which a reference in the document of this path leads."""
    while "$ref" in part:
        target: Json = document(of_protocol(path))
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target
    return part


def parameters_of(path: str, operation: Json) -> list[Json]:
    """The parameters of an operation, whether they stand there or in the components."""
    return [resolved(part, path) for part in operation.get("parameters", ())]


def check_documented(answer: httpx.Response) -> None:
    """Fail for a status that the operation does not name, another media type, or another error code."""
    request = answer.request
    operation = operation_of(request.method, request.url.path)
    if operation is None or answer.status_code in _OF_ANY_PATH:
        return
    asked = f"{request.method} {request.url.path}: {answer.status_code}"
    responses, status = operation["responses"], str(answer.status_code)
    assert status in responses or answer.is_error, f"{asked} is not documented"
    response = resolved(responses.get(status, responses["default"]), request.url.path)
    kind = answer.headers.get("content-type", "").partition(";")[0]
    content = response.get("content", {})
    if kind and request.method != "HEAD" and answer.status_code != 304:
        assert kind in content, f"{asked} is {kind}; documented are {', '.join(content) or 'none'}"
    if kind == "application/problem+json" and request.method != "HEAD":
        answer.read()
        code = answer.json()["code"]
        of_all = resolved(responses["default"], request.url.path)["x-error-codes"]
        assert code in {*response["x-error-codes"], *of_all}, f"{asked} {code} is not documented: {answer.text}"
