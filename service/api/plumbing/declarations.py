"""Declarations of operations: what their routes add to the OpenAPI document (`openapi_extra` of FastAPI).

Headers and the errors that every operation can give are added by `building`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

#: Extensions that `building` reads and takes out again.
CODES = "x-codes"
CODES_AT = "x-codes-at"
#: Codes that an operation on stored files can give beside its own.
STORED = ("artifact_missing", "storage_unavailable", "artifact_damaged")
#: Codes that receiving a file can give.
RECEIVED = (
    *("too_large", "body_stalled", "empty_upload", "invalid_form", "missing_part", "file_and_upload"),
    *("upload_incomplete", "upload_busy", "invalid_json", "invalid_text", "storage_unavailable"),
)
#: Headers of a creation.
CREATED = ("Location", "Idempotent-Replayed")
#: Codes that a creation under an `Idempotency-Key` can give.
KEYED = ("idempotency_key_in_flight", "idempotency_key_reused")
#: Codes that a model in service can give.
SERVED = ("model_suspended", "model_cannot_be_opened", "out_of_memory", "storage_unavailable", "artifact_damaged")
#: Where the path is right, and the stored file of its model is lost.
LOST = {503: ["artifact_missing"]}

#: Codes with which a model refuses options of an answer.
OPTIONS_REFUSED = (
    *("max_error_unreachable", "coverage_unreachable", "no_guarantee_rows", "guarantee_needs_data_priors"),
    *("no_class_shares", "no_decision_thresholds"),
)
#: Codes with which a model refuses rows.
ROWS_REFUSED = (
    *("empty_inputs", "wrong_inputs", "wrong_shape", "wrong_dtype", "wrong_size", "non_finite", "non_finite_output"),
    *("inputs_refused", "inputs_too_long", "bad_image", "no_preprocessing", "too_many_pixels", "too_many_rows"),
    *("too_large", "too_many_values", "answer_too_large", "invalid_encoding", "unsupported_encoding"),
)

BINARY: Json = {"type": "string", "format": "binary"}
_IF_NONE_MATCH: Json = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` that the client has: 304 where nothing has changed since.",
    "schema": {"type": "string"},
}

_RANGE: Json = {
    "name": "Range",
    "in": "header",
    "required": False,
    "description": "The bytes that are wanted, such as `bytes=0-1048575`; a download that broke off goes on so.",
    "schema": {"type": "string"},
}
_PART: Json = {
    "description": "The bytes of the range that was asked for.",
    "headers": {
        "Content-Range": {
            "description": "The range of these bytes, and the bytes of the whole.",
            "schema": {"type": "string"},
        }
    },
}


def operation(
    *codes: str,
    at: Mapping[int, Sequence[str]] | None = None,
    headers: Mapping[int, Sequence[str]] | None = None,
    tagged: bool = False,
    ranges: str | None = None,
    content: Json | None = None,
    more: Json | None = None,
) -> Json:
    """The part of an operation that FastAPI cannot know.

    Args:
        codes: of errors that it can give beside those of every operation.
        at: codes that come with another status here than they have in `ERROR_CODES`, by status.
        headers: of its answers, by status.
        tagged: whether its 200 has an `ETag`, and `If-None-Match` is heeded.
        ranges: the media type of a file, where `Range` is heeded.
        content: of its 200, by media type, beside what its response model says.
        more: what else belongs to it, such as a request body.
    """
    named = {status: list(names) for status, names in (headers or {}).items()}
    if tagged:
        named[200] = [*named.get(200, ()), "ETag"]
        named[304] = ["ETag"]
    responses: dict[str, Any] = {str(status): {"headers": header_references(names)} for status, names in named.items()}
    if tagged:
        responses["304"]["description"] = "The content has that tag still."
    if content is not None:
        responses.setdefault("200", {})["content"] = content
    if ranges:
        responses["206"] = {
            **_PART,
            "content": {ranges: {"schema": BINARY}},
        }
    declared = {
        CODES: [*codes, *(["range_not_satisfiable"] if ranges else [])],
        CODES_AT: at,
        "parameters": [*([_IF_NONE_MATCH] if tagged else []), *([_RANGE] if ranges else [])],
        "responses": responses,
    }
    return {**{name: value for name, value in declared.items() if value}, **(more or {})}


def json_text(schema: str, field: str) -> Json:
    """The schema of a text that is JSON, as a field of this schema has it; generators of clients read the text."""
    content = {"$ref": f"#/components/schemas/{schema}/properties/{field}"}
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": content}


def header_references(names: Iterable[str]) -> Json:
    """Headers of an answer, which `texts` describes."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
