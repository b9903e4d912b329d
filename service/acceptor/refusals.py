"""The answers that the acceptor gives itself, in the forms that all errors of the service have."""

from __future__ import annotations

import json
from random import getrandbits

_PROTOCOL = b"/v2"


def busy(path: bytes) -> bytes:
    """No process takes the connection."""
    detail = "the process that answers this is being started again; come again in 1 s"
    return _answer(path, 503, "Service Unavailable", "unavailable", detail, "retry-after: 1")


def too_many(path: bytes, reason: str) -> bytes:
    """The connection is beyond a limit."""
    detail = f"{reason}; close idle connections and come again in 1 s"
    return _answer(path, 503, "Service Unavailable", "too_many_connections", detail, "retry-after: 1")


def head_stalled(path: bytes) -> bytes:
    """The head was not whole in time; `path` is what is known of its path."""
    detail = "the head of the request was not whole 15 s after its first byte"
    return _answer(path, 408, "Request Timeout", "head_stalled", detail)


def _answer(path: bytes, status: int, title: str, code: str, detail: str, *headers: str) -> bytes:
    kind, error = "application/problem+json", {
        "type": "about:blank", "title": title, "status": status, "detail": detail, "code": code
    }  # fmt: skip
    if path.startswith(_PROTOCOL):
        kind, error = "application/json", {"error": detail}
    body = json.dumps(error).encode()
    lines = [
        f"HTTP/1.1 {status} {title}",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        f"x-request-id: req_{getrandbits(96):024x}",
        *headers,
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
