"""Byte ranges (RFC 9110, 14) of a body that is no file: one range of it, or all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from service.api.problems import problem

#: Reads the bytes from one place up to another.
Read = Callable[[int, int], Iterator[bytes]]


def ranged(request: Request, read: Read, size: int, *, media_type: str, headers: Mapping[str, str]) -> Response:
    """Answer the range that is asked for, or everything; several ranges at once are answered by everything, too.

    Args:
        headers: with the `ETag`, which `If-Range` is compared with.
    """
    asked = request.headers.get("range")
    whole = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(size)}
    if asked is None or "," in asked or request.headers.get("if-range") not in (None, headers["ETag"]):
        return StreamingResponse(read(0, size), media_type=media_type, headers=whole)
    found = _range(asked, size)
    if found is None:
        detail = f"the file has {size} bytes; needed is a range of them, such as 'bytes=0-99'"
        content_range = {"Content-Range": f"bytes */{size}"}
        return problem(416, "range_not_satisfiable", detail, path=request.url.path, headers=content_range)
    start, stop = found
    part = {**whole, "Content-Length": str(stop - start), "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return StreamingResponse(read(start, stop), 206, media_type=media_type, headers=part)


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """Where a range begins and ends, or None where there is nothing of it.

    >>> _range("bytes=0-3", 10), _range("bytes=4-", 10), _range("bytes=-3", 10), _range("bytes=8-99", 10)
    ((0, 4), (4, 10), (7, 10), (8, 10))
    >>> _range("bytes=10-", 10), _range("bytes=3-2", 10), _range("bytes=-0", 10), _range("rows=1-2", 10)
    (None, None, None, None)
    """
    parts = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", asked.strip())
    if parts is None:
        return None
    first, last = parts.groups()
    if not first:
        start, stop = size - min(size, int(last or 0)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
    return (start, stop) if start < stop else None
