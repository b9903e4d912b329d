"""The answers that the acceptor gives itself, in the form of all problems of the service (RFC 9457)."""

from __future__ import annotations

import json


def _answer(status: int, title: str, code: str, detail: str, *headers: str) -> bytes:
    body = json.dumps(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    ).encode()
    lines = [
        f"HTTP/1.1 {status} {title}",
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        *headers,
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def too_many(reason: str) -> bytes:
    """The answer to a connection beyond a limit."""
    detail = f"{reason}; close idle connections and come again in 1 s"
    return _answer(503, "Service Unavailable", "too_many_connections", detail, "retry-after: 1")


#: No process takes the connection.
BUSY = _answer(
    503, "Service Unavailable", "unavailable",
    "the process that answers this is being started again; come again in 1 s", "retry-after: 1",
)  # fmt: skip
HEAD_STALLED = _answer(
    408, "Request Timeout", "head_stalled", "the head of the request was not whole 15 s after its first byte"
)
