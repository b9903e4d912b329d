"""Uploads: a small file in one request, a larger one in pieces that go on where a lost connection stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import httpx

from fedlas.client import problems
from fedlas.client.errors import ClientError, DigestMismatch, ServerMismatch
from fedlas.client.local_files import Source
from fedlas.client.records.files import Calibrator, Dataset, Model, Upload
from fedlas.client.retrying import backoff, retry_after
from fedlas.client.transport import Params, Transport

Record = TypeVar("Record", Model, Dataset, Calibrator)
#: Told of what has gone out: bytes sent, and bytes in all.
OnUpload = Callable[[int, int], None]

#: Up to here a file goes out in one request, which is sent again whole where its connection breaks.
SMALL = 8 * 1024**2
_PIECE = 64 * 1024**2
_BLOCK = 256 * 1024
#: Reading many gigabytes once more for their digest takes the server a while.
_CREATION_S = 600.0
_PIECE_S = 120.0
#: Answers after which the server says where the upload stands.
_COME_AGAIN = frozenset({408, 409, 429, 502, 503, 504})


def upload(
    transport: Transport,
    kind: type[Record],
    route: str,
    path: Path,
    *,
    params: Params,
    on_upload: OnUpload | None = None,
) -> Record:
    """The record of a file; raises FileProblem, DigestMismatch and what the server refuses."""
    source = Source(path)
    told = on_upload or (lambda sent, total: None)
    try:
        told(0, source.size)
        if source.size <= SMALL:
            content = source.read(0, source.size)
            record = transport.read(
                kind, "POST", route, params=params, content=content, creates=True, headers=_BINARY, timeout=_CREATION_S
            )
            told(source.size, source.size)
        else:
            upload_id = _send(transport, source, told)
            record = transport.read(
                kind, "POST", route, params={**params, "upload_id": upload_id}, creates=True, timeout=_CREATION_S
            )
        if record.sha256 != source.sha256:
            with suppress(ClientError):  # what matters is said below
                transport.request("DELETE", f"{route}/{record.id}")
            message = f"{path} arrived otherwise than it was sent, or changed meanwhile; send it again"
            raise DigestMismatch(message)
        return record
    finally:
        source.close()


_BINARY = {"Content-Type": "application/octet-stream"}


def _send(transport: Transport, source: Source, told: OnUpload) -> str:
    """All pieces; returns the upload's id."""
    announced = transport.read(Upload, "POST", "/v1/uploads", json={"bytes": source.size}, creates=True)
    path, offset, furthest, losses = f"/v1/uploads/{announced.id}", 0, 0, 0
    while offset < source.size:
        delay = None
        try:
            response = _send_piece(transport, path, source, offset, told)
        except httpx.TransportError as error:
            if losses >= transport.max_retries_after(error):
                raise problems.unreachable(error, transport.configuration.url, None) from None
            delay = backoff(losses)
        else:
            if response.is_success:
                reached = _offset_of(response)
                if reached <= offset and losses >= transport.max_retries:
                    found = f"{problems.describe(response)}, but keeps nothing"
                    raise transport.mismatch(found, response)
                delay = backoff(losses) if reached <= offset else None
                offset = reached
            elif response.status_code in _COME_AGAIN and losses < transport.max_retries:
                delay = retry_after(response) or backoff(losses)
            else:
                with transport.readable(response):
                    raise problems.refusal(response)
        if delay is not None:
            losses += 1
            time.sleep(delay)
            offset = transport.read(Upload, "GET", path).offset
        if offset > furthest:
            furthest, losses = offset, 0
    told(source.size, source.size)
    return announced.id


def _send_piece(transport: Transport, path: str, source: Source, offset: int, told: OnUpload) -> httpx.Response:
    length = min(_PIECE, source.size - offset)
    headers = {**_BINARY, "Upload-Offset": str(offset), "Content-Length": str(length)}
    content = _blocks(source, offset, offset + length, told)
    return transport.attempt("PATCH", path, content=content, headers=headers, timeout=_PIECE_S)


def _blocks(source: Source, start: int, end: int, told: OnUpload) -> Iterator[bytes]:
    while start < end:
        block = source.read(start, min(_BLOCK, end - start))
        yield block
        start += len(block)
        told(start, source.size)


def _offset_of(response: httpx.Response) -> int:
    text = response.headers.get("upload-offset", "")
    if not text.isdigit():
        raise ServerMismatch(f"{problems.describe(response)}, without an Upload-Offset", status=response.status_code)
    return int(text)
