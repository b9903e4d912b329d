"""Files sent and received: whole or not at all, with their digest, and from where a lost connection stopped.

A small file goes out in one request, a larger one in pieces. What is received has its own name only once it is whole
and its digest is right.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx

from fedlas.client import problems
from fedlas.client.errors import ClientError, DigestMismatch, FileError, ServerMismatch
from fedlas.client.problems import MAX_CALL_S, backoff, retry_after
from fedlas.client.transport import Params, Transport
from fedlas.contract.records import CalibratorRecord, DatasetRecord, ModelRecord, UploadRecord
from fedlas.file_kinds import of_folder


class Source:
    """A file that is sent: its digest grows with what was read of it, wherever reading goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = opened(path)
        self.size = os.fstat(self._file.fileno()).st_size
        if self.size == 0:
            self.close()
            raise FileError("empty_file", f"{path} is empty")
        self._digest = hashlib.sha256()
        self._digested = 0

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from there; raises FileError where they are gone."""
        try:
            self._file.seek(offset)
            block = self._file.read(count)
        except OSError as error:
            raise FileError("unreadable_file", f"{self.path} cannot be read: {error.strerror}") from None
        if len(block) < min(count, self.size - offset):
            raise FileError("file_changed", f"{self.path} became shorter while it was sent")
        if offset <= self._digested < offset + len(block):
            self._digest.update(block[self._digested - offset :])
            self._digested = offset + len(block)
        return block

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()


def opened(path: Path) -> BinaryIO:
    """The file, to be read; raises FileError."""
    if path.is_dir():
        raise FileError("not_a_file", of_folder(path))
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise FileError("no_such_file", f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileError("unreadable_file", f"{path} cannot be read: {reason}") from None


class Target:
    """A file that is received, under a temporary name; `etag` is of the content that came so far, where it has one."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # what a link points to, and not the link, is written
        if self.path.exists() and not self.path.is_file():
            what = "a folder" if self.path.is_dir() else "a device or a pipe"
            raise FileError("not_a_file", f"{path} is {what}, expected a file")
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._file = self._temporary.open("xb")
        self._digest = hashlib.sha256()
        self.size = 0
        self.etag: str | None = None

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.size = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def keep(self) -> None:
        """Take the place of the file under its own name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


@contextmanager
def receiving(path: Path) -> Iterator[Target]:
    """The target for the block, kept where the block calls `keep`; raises FileError for what the disk refuses."""
    target: Target | None = None
    try:
        target = Target(path)
        yield target
    except OSError as error:
        if isinstance(error, TimeoutError | ConnectionError):
            raise
        raise FileError("unwritable_file", f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if target is not None:
            target.discard()


Record = TypeVar("Record", ModelRecord, DatasetRecord, CalibratorRecord)
#: Told of what has gone out: bytes sent, and bytes in all.
OnUpload = Callable[[int, int], None]
#: Up to here a file goes out in one request, which is sent again whole where its connection breaks.
MAX_BODY_BYTES = 8 * 1024**2
_PIECE = 64 * 1024**2
_BLOCK = 256 * 1024
#: Reading many gigabytes once more for their digest takes the server a while.
_CREATION_S = 600.0
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
    """The record of a file; raises FileError, DigestMismatch and what the server refuses."""
    source = Source(path)
    told = on_upload or (lambda sent, total: None)
    try:
        told(0, source.size)
        if source.size <= MAX_BODY_BYTES:
            sent: dict[str, Any] = {"params": params, "content": source.read(0, source.size), "headers": _BINARY}
        else:
            sent = {"params": {**params, "upload_id": _send(transport, source, told)}}
        record = transport.read(kind, "POST", route, **sent, creates=True, timeout=_CREATION_S)
        told(source.size, source.size)
        if record.sha256 != source.sha256:
            with suppress(ClientError):  # what matters is said below
                transport.request("DELETE", f"{route}/{record.id}")
            raise DigestMismatch(f"{path} arrived otherwise than it was sent, or changed meanwhile; send it again")
        return record
    finally:
        source.close()


_BINARY = {"Content-Type": "application/octet-stream"}


def _send(transport: Transport, source: Source, told: OnUpload) -> str:
    """All pieces; returns the upload's id."""
    announced = transport.read(UploadRecord, "POST", "/v1/uploads", json={"bytes": source.size}, creates=True)
    path, offset, furthest, losses = f"/v1/uploads/{announced.id}", 0, 0, 0
    while offset < source.size:
        delay = None
        try:
            length = min(_PIECE, source.size - offset)
            headers = {**_BINARY, "Upload-Offset": str(offset), "Content-Length": str(length)}
            content = _blocks(source, offset, offset + length, told)
            response = transport.attempt("PATCH", path, content=content, headers=headers, timeout=120.0)
        except httpx.TransportError as error:
            if losses >= transport.max_retries_after(error):
                raise problems.unreachable(error, transport.configuration.url, None) from None
            delay = backoff(losses)
        else:
            if response.is_success:
                if (reached := _offset_of(response)) <= offset and losses >= transport.max_retries:
                    raise transport.mismatch(f"{problems.describe(response)}, but keeps nothing", response)
                delay = backoff(losses) if reached <= offset else None
                offset = reached
            elif response.status_code in _COME_AGAIN and losses < transport.max_retries:
                delay = min(retry_after(response) or backoff(losses), MAX_CALL_S)
            else:
                with transport.readable(response):
                    raise problems.refusal(response)
        if delay is not None:
            losses += 1
            time.sleep(delay)
            offset = transport.read(UploadRecord, "GET", path).offset
        if offset > furthest:
            furthest, losses = offset, 0
    return announced.id


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


#: Told of what has come: bytes received, and bytes in all where they are known.
OnDownload = Callable[[int, int | None], None]
_TIMEOUT_S = 60.0


def download(
    transport: Transport,
    route: str,
    path: Path,
    *,
    params: Params | None = None,
    on_progress: OnDownload | None = None,
    stored: bool = True,
) -> Path:
    """Write what the server answers to `path`; a lost connection goes on where it stopped, where the server can.

    Args:
        stored: the server has it as a file, whose `ETag` is its SHA-256, and does not write it for this answer.

    Raises:
        ClientError: FileError, DigestMismatch, or what the server refuses.
    """
    told = on_progress or (lambda received, total: None)
    with receiving(path) as target:
        losses = 0
        while True:
            before = target.size
            try:
                _receive(transport, route, params, target, told, stored=stored)
                break
            except httpx.TransportError as error:
                losses = 0 if target.size > before else losses + 1
                if losses > transport.max_retries_after(error):
                    raise problems.unreachable(error, transport.configuration.url, None) from None
                time.sleep(backoff(losses))
        if (digest := _digest(target)) and digest != target.sha256:
            raise DigestMismatch(
                f"{target.path} arrived otherwise than the server has it; nothing of it was kept, ask again"
            )
        target.keep()
    return path


def _receive(
    transport: Transport, route: str, params: Params | None, target: Target, told: OnDownload, *, stored: bool
) -> None:
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if target.size and target.etag:
        headers |= {"Range": f"bytes={target.size}-", "If-Range": target.etag}
    with transport.stream(route, params=params, headers=headers, timeout=_TIMEOUT_S) as response:
        if response.status_code != 206 and target.size:
            target.restart()
        target.etag = response.headers.get("etag")
        if (stored and not _digest(target)) or "text/html" in response.headers.get("content-type", ""):
            raise transport.mismatch(f"{problems.describe(response)}, which is no file of the service's", response)
        length = response.headers.get("content-length", "")
        total = target.size + int(length) if length.isdigit() else None
        for block in response.iter_bytes():
            target.write(block)
            told(target.size, total)


def _digest(target: Target) -> str:
    """The SHA-256 in the `ETag`, which stored files have; empty where it is none."""
    digest = (target.etag or "").removeprefix("W/").strip('"')
    return digest if re.fullmatch("[0-9a-f]{64}", digest) else ""
