"""What the acceptor reads of a head: the path of a `POST`."""

from __future__ import annotations

import re

#: Of a head that is longer than this, the rest does not matter here.
PEEKED_BYTES = 16 * 1024
_NO_HTTP = re.compile(rb"(?:\r?\n)*[^A-Za-z\r\n]")
_LINE = re.compile(rb"(?:\r?\n)*POST +(?:(?i:https?)://[^/ ?\r\n]*)?(/[^ ?\r\n]*)")


def is_whole(head: bytes) -> bool:
    """Whether as much of the head is there as matters: of what is no HTTP, a byte."""
    return b"\r\n\r\n" in head or b"\n\n" in head or len(head) >= PEEKED_BYTES or _NO_HTTP.match(head) is not None


def path_of(head: bytes) -> bytes:
    """The path of a head; empty where there is none, or where this is no `POST`.

    The process that answers reads all of it again, and more strictly.

    >>> path_of(b"POST /v1/jobs?limit=1 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    b'/v1/jobs'
    >>> path_of(b"POST HTTP://A/v1/models/m/predict HTTP/1.1\\r\\n\\r\\n")
    b'/v1/models/m/predict'
    """
    line = _LINE.match(head)
    return line[1] if line else b""
