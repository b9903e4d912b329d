"""Texts of the OpenAPI document that belong to no single operation: introduction, servers, tags, headers."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

DESCRIPTION = """\
Upload a classifier and labelled rows, order a job, and get back a model whose confidences can be acted on, with a
report that says what was shown on test rows.

- **Ids** are prefixed and sort by time: `ds_…`, `mdl_…`, `job_…`, `bat_…`, `cal_…`, `upl_…`. Times are RFC 3339 UTC.
  Metrics are fractions.
- **Keys**: where the operator has configured any, every request needs `Authorization: Bearer KEY`; without any, the
  service answers to this machine alone.
- **Lists** are `{"data": […], "has_more": bool}`, newest first; the next page begins `after` the last id.
- **Long poll**: `?wait=SECONDS` (0 to 60) answers as soon as a record has reached its end.
- **Retries**: every POST that creates takes an `Idempotency-Key`. `Retry-After` says when to come again.
- **Errors** are RFC 9457 `application/problem+json` with a stable `code`; each operation lists its codes. Beside those,
  a request that is no sound HTTP is refused with 408, 417 or 505, and a method that a path does not know
  with 405. Under `/v2` they are `{"error": "…"}`, as the Open Inference Protocol wants it.
- `HEAD` works wherever `GET` does. Unknown fields and query parameters are errors under `/v1`.
"""

SERVERS: list[Json] = [
    {"url": "/", "description": "The service that this document came from."},
    {
        "url": "{scheme}://{host}:{port}",
        "description": "`fedlas serve`, on this machine unless told otherwise.",
        "variables": {
            "scheme": {"default": "http", "enum": ["http", "https"], "description": "https behind a proxy."},
            "host": {"default": "127.0.0.1", "description": "As `--host`."},
            "port": {"default": "8000", "description": "As `--port`."},
        },
    },
]

SECURITY_SCHEME: Json = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of the service (`FEDLAS_API_KEYS`). Not needed where none is configured.",
}

TAGS: list[Json] = [
    {"name": "models", "description": "Classifiers: uploaded as ONNX or safetensors, or made by a job."},
    {"name": "datasets", "description": "Labelled rows with their splits, or rows that are only to be predicted."},
    {"name": "uploads", "description": "Files in pieces: a broken connection costs a piece and not the file."},
    {
        "name": "jobs",
        "description": "Calibrations of a model on a dataset: from the order over events to the report, and webhooks.",
    },
    {"name": "names", "description": "Published names: which version answers, switched and rolled back by one call."},
    {"name": "predictions", "description": "Calibrated answers: for the rows of a request, or of a stored dataset."},
    {"name": "calibrators", "description": "Scores only: a calibrator for logits and labels; no model leaves you."},
    {
        "name": "inference protocol",
        "description": "The Open Inference Protocol with Triton's extensions, for unchanged KServe and Triton clients.",
    },
    {"name": "operations", "description": "For operators: whether it lives, whether it is ready, and its metrics."},
]


def _header(description: str, example: str, kind: str = "string") -> Json:
    return {
        "description": description,
        "schema": {"type": kind},
        "example": int(example) if kind == "integer" else example,
    }


HEADERS: Json = {
    "X-Request-Id": _header("Of this request; the client's own, if it sent one.", "req_6b1f0c2d9a8e4f7b3c5d1e0a"),
    "Location": _header("The new record.", "/v1/jobs/job_01kb3x8m6p4q2r7s9t1v3w5y7z"),
    "ETag": _header("Of this content; sent back as `If-None-Match`.", '"33a64df551425fcc55e4d42a148795d9"'),
    "Retry-After": _header("Seconds after which to come again.", "2", "integer"),
    "Upload-Offset": _header("Bytes that are safely here; the next piece begins there.", "8388608", "integer"),
    "Upload-Length": _header("Bytes of the whole file.", "12582912", "integer"),
    "Upload-Complete": _header("`?1` once all bytes are here, else `?0`.", "?0"),
    "WWW-Authenticate": _header("The scheme of the key.", "Bearer"),
    "Inference-Header-Content-Length": _header("Bytes of JSON before the binary tensors.", "166", "integer"),
}
