"""Uploads: a small file in one request, a larger one in pieces that go on where a lost connection stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import httpx

from fedlas.client import problems
from fedlas.client._async.transport import AsyncTransport, Params
from fedlas.client.errors import ClientError, DigestMismatch, ServerMismatch
from fedlas.client.local_files import Source
from fedlas.client.records.files import Calibrator, Dataset, Model, Upload
from fedlas.client.retrying import backoff, retry_after
from fedlas.client.waiting import async_in_thread, async_sleep

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


async def upload(
    transport: AsyncTransport,
    kind: type[Record],
    route: str,
    path: Path,
    *,
    params: Params,
    on_upload: OnUpload | None = None,
) -> Record:
    """The record of a file; raises FileProblem, DigestMismatch and what the server refuses."""
    source = await async_in_thread(Source, path)
    told = on_upload or (lambda sent, total: None)
    try:
        told(0, source.size)
        if source.size <= SMALL:
            content = await async_in_thread(source.read, 0, source.size)
            record = await transport.read(
                kind, "POST", route, params=params, content=content, creates=True, headers=_BINARY, timeout=_CREATION_S
            )
            told(source.size, source.size)
        else:
            upload_id = await _send(transport, source, told)
            record = await transport.read(
                kind, "POST", route, params={**params, "upload_id": upload_id}, creates=True, timeout=_CREATION_S
            )
        if record.sha256 != source.sha256:
            with suppress(ClientError):  # what matters is said below
                await transport.request("DELETE", f"{route}/{record.id}")
            message = f"{path} arrived otherwise than it was sent, or changed meanwhile; send it again"
            raise DigestMismatch(message)
        return record
    finally:
        source.close()


_BINARY = {"Content-Type": "application/octet-stream"}


async def _send(transport: AsyncTransport, source: Source, told: OnUpload) -> str:
    """All pieces; returns the upload's id."""
    announced = await transport.read(Upload, "POST", "/v1/uploads", json={"bytes": source.size}, creates=True)
    path, offset, furthest, losses = f"/v1/uploads/{announced.id}", 0, 0, 0
    while offset < source.size:
        delay = None
        try:
            response = await _send_piece(transport, path, source, offset, told)
        except httpx.TransportError as error:
            if losses >= transport.most_retries(error):
                raise problems.unreachable(error, transport.configuration.url, None) from None
            delay = backoff(losses)
        else:
            if response.is_success:
                reached = _offset_of(response)
                if reached <= offset and losses >= transport.max_retries:
                    found = f"{problems.describe(response)}, but keeps nothing"
                    raise await transport.mismatch(found, response)
                delay = backoff(losses) if reached <= offset else None
                offset = reached
            elif response.status_code in _COME_AGAIN and losses < transport.max_retries:
                delay = retry_after(response) or backoff(losses)
            else:
                raise await transport.refusal(response)
        if delay is not None:
            losses += 1
            await async_sleep(delay)
            offset = (await transport.read(Upload, "GET", path)).offset
        if offset > furthest:
            furthest, losses = offset, 0
    told(source.size, source.size)
    return announced.id


async def _send_piece(
    transport: AsyncTransport, path: str, source: Source, offset: int, told: OnUpload
) -> httpx.Response:
    length = min(_PIECE, source.size - offset)
    headers = {**_BINARY, "Upload-Offset": str(offset), "Content-Length": str(length)}
    content = _blocks(source, offset, offset + length, told)
    return await transport.attempt("PATCH", path, content=content, headers=headers, timeout=_PIECE_S)


async def _blocks(source: Source, start: int, end: int, told: OnUpload) -> AsyncIterator[bytes]:
    while start < end:
        block = await async_in_thread(source.read, start, min(_BLOCK, end - start))
        yield block
        start += len(block)
        told(start, source.size)


def _offset_of(response: httpx.Response) -> int:
    text = response.headers.get("upload-offset", "")
    if not text.isdigit():
        raise ServerMismatch(f"{problems.describe(response)}, without an Upload-Offset", status=response.status_code)
    return int(text)
