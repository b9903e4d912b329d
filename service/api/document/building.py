"""Building the OpenAPI document: what FastAPI knows of its routes, the serving routes, and what holds for all."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from fedlas.contract.error_codes import ERROR_CODES
from fedlas.contract.options import DatasetPart, ModelPart, ScoresPart
from fedlas.contract.problems import Problem
from fedlas.contract.protocol import OipError
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.contract.requests import JobOptions, JobRequest
from service.api.document.prediction_operations import PredictionOperation
from service.api.plumbing.declarations import CODES, CODES_AT, header_references
from service.api.plumbing.routing import ANY_KEY
from service.http.access import is_open
from service.http.problems import PROTOCOL, phrase, protocol_status

Json = dict[str, Any]
_REFERENCE = re.compile(r"#/components/(\w+)/([\w-]+)")
#: The description of an answer whose schema has none, by its first media type.
_CONTENTS = {
    "application/json": "One page of the list, newest first.",
    "application/octet-stream": "The bytes of the whole file.",
    "image/svg+xml": "The diagram as an SVG picture.",
    "text/html": "The report as a page that loads nothing.",
}
#: A summary is the beginning of a description, up to its first full stop, colon, semicolon, comma or bracket.
_SUMMARY = re.compile(r"[.:;,(]")
_TEXTS: Json = {"type": "object", "additionalProperties": {"type": "string"}}
LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}

SERVERS: list[Json] = [
    {"url": "/", "description": "The service that this document came from."},
    {
        "url": "{scheme}://{host}:{port}",
        "description": "`fedlas serve`, on this machine by default.",
        "variables": {
            "scheme": {
                "default": "http",
                "enum": ["http", "https"],
                "description": "The scheme: https behind a proxy.",
            },
            "host": {"default": "127.0.0.1", "description": "The host, as given by `--host`."},
            "port": {"default": "8000", "description": "The port, as given by `--port`."},
        },
    },
]

TAGS: list[Json] = [
    {"name": "models", "description": "Classifiers: uploaded as ONNX, or made by a job."},
    {"name": "datasets", "description": "Labelled rows with their splits, or rows that are only to be predicted."},
    {"name": "uploads", "description": "Files in pieces: a broken connection costs a piece and not the file."},
    {
        "name": "jobs",
        "description": "Calibrations of a model on a dataset: the request, events, the report, and webhooks.",
    },
    {"name": "names", "description": "Published names: which version answers, switched and rolled back by one call."},
    {"name": "predictions", "description": "Calibrated answers: for the rows of a request, or of a stored dataset."},
    {"name": "calibrators", "description": "Scores only: a calibrator for logits and labels; no model leaves you."},
    {
        "name": "inference protocol",
        "description": "The Open Inference Protocol with Triton's extensions, for unchanged KServe and Triton clients.",
    },
    {"name": "keys", "description": "Keys with scopes, for administrators: issued, listed, revoked."},
    {"name": "operations", "description": "For operators: whether it lives, whether it is ready, and its metrics."},
]

TAG_GROUPS: list[Json] = [
    {"name": "Start here", "tags": ["models", "datasets", "jobs", "predictions"]},
    {"name": "More", "tags": ["uploads", "names", "calibrators"]},
    {"name": "Operate", "tags": ["keys", "operations"]},
]
_LANGUAGES = {"bash": "Shell", "python": "Python", "typescript": "TypeScript"}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _header(description: str, example: str, kind: str = "string") -> Json:
    return {
        "description": description,
        "schema": {"type": kind},
        "example": int(example) if kind == "integer" else example,
    }


HEADERS: Json = {
    "X-Request-Id": _header(
        "The id of this request; the client's own, if it sent one.", "req_6b1f0c2d9a8e4f7b3c5d1e0a"
    ),
    "Location": _header("The path of the new record.", "/v1/jobs/job_01kb3x8m6p4q2r7s9t1v3w5y7z"),
    "Idempotent-Replayed": _header("`true` where an earlier request with this key has made the record.", "true"),
    "ETag": _header("The tag of this content; sent back as `If-None-Match`.", '"33a64df551425fcc55e4d42a148795d9"'),
    "Retry-After": _header("Seconds after which to come again.", "2", "integer"),
    "Upload-Offset": _header("Bytes that are safely here; the next piece begins there.", "8388608", "integer"),
    "Upload-Length": _header("The bytes of the whole file.", "12582912", "integer"),
    "Upload-Complete": _header("`?1` once all bytes are here, else `?0`.", "?0"),
    "WWW-Authenticate": _header("The scheme by which a key is sent.", "Bearer"),
    "Inference-Header-Content-Length": _header("Bytes of JSON before the binary tensors.", "166", "integer"),
}

#: Parameters that their routes leave undescribed.
PARAMETERS = {
    "batch_id": "The id of a batch, `bat_…`.",
    "calibrator_id": "The id of a calibrator, `cal_…`.",
    "dataset_id": "The id of a dataset, `ds_…`.",
    "delivery_id": "The id of a message, `msg_…`.",
    "key_id": "The id of a key, `key_…`.",
    "job_id": "The id of a job, `job_…`.",
    "missing": "`nan`: numbers may be missing; `reject`: a file that lacks one is rejected.",
    "model": "A model id or a published name.",
    "model_id": "The id of a model, `mdl_…`; to read it, a published name works, too.",
    "name": "A published name; of a file: what its record is called.",
    "positive_class": "One of `class_names`: the class that `probability` and thresholds are of.",
    "split_seed": "The seed with which splits are drawn.",
    "task": "`binary` or `multiclass`, where the output leaves it open.",
    "upload_id": "The id of an upload, `upl_…`.",
    "version": "A number among the versions of the name.",
}

#: Refusals that have nothing to do with the operation; each document describes them once, as `default`.
_TRANSPORT = (
    *("malformed_request", "uri_too_long", "unknown_host", "headers_too_large", "internal_error"),
    *("too_many_connections", "unavailable", "database_unavailable", "forbidden"),
)
_BODY = ("unsupported_media_type", "too_large", "too_many_values", "body_stalled", "invalid_json", "invalid_text")
_QUERY = ("invalid_request", "too_many_parameters")
#: Answers that many operations have just so, by status and codes; a document holds each once, under this name.
_SHARED = {
    (401, ("unauthorized",)): "Unauthorized",
    (403, ("foreign_origin",)): "Forbidden",
    (408, ("body_stalled",)): "RequestTimeout",
    (413, ("too_large", "too_many_values")): "RequestEntityTooLarge",
    (415, ("unsupported_media_type",)): "UnsupportedMediaType",
    (422, _QUERY): "InvalidQuery",
    (422, (*_QUERY, "invalid_json", "invalid_text")): "InvalidBody",
    (503, ("storage_unavailable", "artifact_damaged")): "StorageUnavailable",
}


class Documents(NamedTuple):
    """The OpenAPI documents: `/v1` with the operators' routes, and the Open Inference Protocol by itself."""

    main: Json
    protocol: Json


def build(app: FastAPI, predictions: Sequence[PredictionOperation]) -> Documents:
    """The documents of the REST API with these operations in front of it."""
    document: Json = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=files(__package__).joinpath("introduction.md").read_text("utf-8"),
        routes=app.routes,
        servers=SERVERS,
        tags=TAGS,
        license_info=LICENSE,
    )
    document["paths"] |= {operation.path: operation.openapi() for operation in predictions}
    schemas = document["components"]["schemas"]
    schemas |= _schemas([Problem, OipError, *_models(operation.response for operation in predictions)], "serialization")
    forms: list[type[BaseModel]] = [JobOptions, ModelPart, DatasetPart, ScoresPart]
    asked = _schemas([JobRequest, *forms, *_models(operation.body for operation in predictions)], "validation")
    _add_requests(document, asked)
    bearer = {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of the service (`FEDLAS_API_KEYS`). Not needed where none is configured.",
    }
    document["components"] |= {"headers": HEADERS, "securitySchemes": {"bearer": bearer}}
    document["security"] = [{"bearer": []}, {}]
    _exemplify(document)
    _begin_with_samples(document)
    shared: Json = {}
    for path, method, operation in operations(document):
        _complete(path, method, operation, shared, schemas)
    document["components"]["responses"] = dict(sorted(shared.items()))
    _without_titles(document)
    _share_parameters(document)
    return Documents(_part(document, of_protocol=False), _part(document, of_protocol=True))


def _add_requests(document: Json, asked: Json) -> None:
    """Add schemas of requests; where an answer repeats one and is open to new fields, the closed one is `…Input`."""
    schemas = document["components"]["schemas"]
    closed = {name for name, schema in asked.items() if name in schemas and schemas[name] != schema}
    text = json.dumps(asked)
    for name in closed:
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{name}Input"')
    schemas |= {f"{name}Input" if name in closed else name: schema for name, schema in json.loads(text).items()}


def _without_titles(document: Json) -> None:
    """Name generic schemas by their titles, and leave out titles, which repeat the names of schemas and fields."""
    schemas = document["components"]["schemas"]
    names = {name: schema["title"] for name, schema in schemas.items() if "_" in name}
    text = json.dumps(document)
    for name, title in names.items():
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{title}"')
    document |= json.loads(text)
    schemas_by_name = document["components"]["schemas"]
    document["components"]["schemas"] = {names.get(name, name): schemas_by_name[name] for name in schemas_by_name}
    for schema in document["components"]["schemas"].values():
        for part in (schema, *schema.get("properties", {}).values()):
            part.pop("title", None)
    for _, _, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            schema = parameter.get("schema", {})
            schema.pop("title", None)
            if schema.get("description") == parameter.get("description"):
                schema.pop("description", None)


def _share_parameters(document: Json) -> None:
    """Describe parameters that several operations have just so once, in the components."""
    users_by_parameter: dict[str, list[Json]] = defaultdict(list)
    for _, _, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            users_by_parameter[json.dumps(parameter, sort_keys=True)].append(operation)
    shared: dict[str, Json] = {}
    for text, users in users_by_parameter.items():
        parameter = json.loads(text)
        name = re.sub(r"\W", "", parameter["name"])
        if len(users) > 2 and name not in shared:
            shared[name] = parameter
            for operation in users:
                place = operation["parameters"].index(parameter)
                operation["parameters"][place] = {"$ref": f"#/components/parameters/{name}"}
    document["components"]["parameters"] = shared


def _part(document: Json, *, of_protocol: bool) -> Json:
    """The document of the paths of one kind, with the components and tags that they need."""
    paths = {path: item for path, item in document["paths"].items() if path.startswith(PROTOCOL) == of_protocol}
    used = {tag for item in paths.values() for operation in item.values() for tag in operation["tags"]}
    part: Json = {**document, "paths": paths, "tags": [tag for tag in document["tags"] if tag["name"] in used]}
    if of_protocol:
        part["info"] = {**document["info"], "title": f"{document['info']['title']}: Open Inference Protocol"}
        del part["x-tagGroups"]
    components = document["components"]
    kept: Json = {"securitySchemes": components["securitySchemes"]}
    left = set(_REFERENCE.findall(json.dumps(paths)))
    while left:
        kind, name = left.pop()
        if name not in kept.setdefault(kind, {}):
            kept[kind][name] = components[kind][name]
            left |= set(_REFERENCE.findall(json.dumps(components[kind][name])))
    return {**part, "components": {kind: dict(sorted(named.items())) for kind, named in sorted(kept.items())}}


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "put", "post", "patch", "delete"):
                yield path, method, operation


def _exemplify(document: Json) -> None:
    """Add what a real service was asked and has answered; long lists are cut short."""
    examples = json.loads(files(__package__).joinpath("examples.json").read_text("utf-8"))
    for _, _, operation in operations(document):
        example = examples.get(operation["operationId"], {})
        good = (response for status, response in operation["responses"].items() if status.startswith("2"))
        for name, part in {"request": operation.get("requestBody", {}), "response": next(good, {})}.items():
            content = part.get("content", {}).get("application/json")
            if content is not None and name in example:
                content["example"] = example[name]


def samples() -> dict[str, list[Json]]:
    """Samples of the operations to begin with, in their order, by operation id."""
    _, *sections = files(__package__).joinpath("samples.md").read_text("utf-8").split("\n## ")
    return {
        section.partition("\n")[0]: [
            {"lang": _LANGUAGES[language], "source": source} for language, source in _BLOCK.findall(section)
        ]
        for section in sections
    }


def _begin_with_samples(document: Json) -> None:
    """Put the operations with samples first."""
    code_samples = samples()
    begun: dict[str, None] = {}
    for name in code_samples:
        for path, _, operation in operations(document):
            if operation["operationId"] == name:
                operation["x-codeSamples"] = code_samples[name]
                begun[path] = None
    document["paths"] = {path: document["paths"][path] for path in (*begun, *document["paths"])}
    document["x-tagGroups"] = TAG_GROUPS


def _meaning(status: str, response: Json, schemas: Json) -> str:
    """The description of a good answer: that of its schema, or else of the bytes that one gets."""
    if status == "204":
        return "The record is deleted; there is no content."
    content = response.get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    described = schemas.get(reference.rpartition("/")[2], {}).get("description")
    return described or next(
        (_CONTENTS[kind] for kind in _CONTENTS if kind in content), "The figures, as lines of text."
    )


def _complete(path: str, method: str, operation: Json, shared: Json, schemas: Json) -> None:
    if is_open(path):
        operation["security"] = []
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in PARAMETERS:
            parameter.setdefault("description", PARAMETERS[parameter["name"]])
        _without_null(parameter)
        if parameter["name"] == f"metadata[{ANY_KEY}]":
            parameter |= {"name": "metadata", "style": "deepObject", "explode": True, "schema": _TEXTS}
    operation["summary"] = _SUMMARY.split(operation["description"], maxsplit=1)[0]
    responses = {status: response for status, response in operation["responses"].items() if status != "4XX"}
    operation["responses"] = responses
    by_status: dict[int, list[str]] = defaultdict(list)
    for code, status in _codes(path, method, operation):
        by_status[status].append(code)
    for status, response in responses.items():
        if response.get("description") == "Successful Response":
            response["description"] = _meaning(status, response, schemas)
        response["headers"] = {**response.get("headers", {}), **header_references(["X-Request-Id"])}
    for status, codes in by_status.items():
        error = _error(path, status, codes)
        if (name := _SHARED.get((status, tuple(codes)))) is not None:
            name = f"{'Protocol' if path.startswith(PROTOCOL) else ''}{name}"
            shared[name] = error
            error = {"$ref": f"#/components/responses/{name}"}
        responses.setdefault(str(status), error)
    default = "ProtocolError" if path.startswith(PROTOCOL) else "Error"
    shared.setdefault(default, _default(path))
    responses["default"] = {"$ref": f"#/components/responses/{default}"}
    operation["responses"] = dict(sorted(responses.items()))
    for name in (CODES, CODES_AT):
        operation.pop(name, None)


def _codes(path: str, method: str, operation: Json) -> Iterator[tuple[str, int]]:
    error_codes: dict[str, None] = {} if is_open(path) else {"unauthorized": None}
    if method != "get":
        error_codes["foreign_origin"] = None
    if "{" in path:
        error_codes["not_found"] = None
    if path.startswith("/v1"):
        error_codes |= dict.fromkeys(("invalid_request", "too_many_parameters"))
    body = operation.get("requestBody", {}).get("content", {})
    if method != "get" and ("application/json" in body or not body):
        error_codes |= dict.fromkeys(_BODY)
    error_codes |= dict.fromkeys(operation.get(CODES, ()))
    for code in error_codes:
        status = ERROR_CODES[code].status
        yield code, protocol_status(code, status) if path.startswith(PROTOCOL) else status
    for status, codes in operation.get(CODES_AT, {}).items():
        yield from ((code, int(status)) for code in codes)


def _without_null(parameter: Json) -> None:
    """A query string has no word for null: a parameter that may be null is one that may be left out."""
    schema = parameter.get("schema", {})
    if {"type": "null"} in (parts := schema.get("anyOf", [])):
        rest = [part for part in parts if part != {"type": "null"}]
        del schema["anyOf"]
        schema |= rest[0] if len(rest) == 1 else {"anyOf": rest}


def _default(path: str) -> Json:
    """The answer to a request that no operation has seen, or that none could answer."""
    error = _error(path, 500, _TRANSPORT)
    codes = error["description"].partition("\n\n")[2]
    return {
        **error,
        "description": f"The request did not reach the operation, or the service cannot answer.\n\n{codes}",
    }


def _error(path: str, status: int, codes: Sequence[str]) -> Json:
    meanings = [ERROR_CODES[code].meaning if code in ERROR_CODES else RECORD_CODES[code] for code in codes]
    told = "\n".join(f"- `{code}`: {meaning}" for code, meaning in zip(codes, meanings, strict=True))
    kind, model = ("application/json", OipError) if path.startswith(PROTOCOL) else ("application/problem+json", Problem)
    headers = [*(name for name, statuses in _ERROR_HEADERS.items() if status in statuses), "X-Request-Id"]
    return {
        "description": f"{phrase(status)}\n\n{told}",
        "content": {kind: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}},
        "x-error-codes": list(codes),
        "headers": header_references(headers),
    }


#: Headers of errors, by the statuses that may have them.
_ERROR_HEADERS = {"Retry-After": (409, 429, 503), "WWW-Authenticate": (401,)}


def _models(bodies: Iterable[Mapping[str, type[BaseModel] | Json]]) -> list[type[BaseModel]]:
    return [schema for body in bodies for schema in body.values() if not isinstance(schema, dict)]


def _schemas(models: Sequence[type[BaseModel]], mode: JsonSchemaMode) -> Json:
    _, schemas = models_json_schema([(model, mode) for model in models], ref_template="#/components/schemas/{model}")
    definitions: Json = schemas["$defs"]
    # FastAPI leaves out of the schemas of responses what is None.
    return definitions if mode == "validation" else jsonable_encoder(definitions, exclude_none=True)
