"""Downloads: a file under its own name once it is whole and its digest is right, and nothing of it before."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from fedlas.client import problems
from fedlas.client.errors import DigestMismatch
from fedlas.client.local_files import Target, receiving
from fedlas.client.retrying import backoff
from fedlas.client.transport import Params, Transport

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
        ClientError: FileProblem, DigestMismatch, or what the server refuses.
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
        _check(target)
        target.keep()
    return path


def _receive(
    transport: Transport, route: str, params: Params | None, target: Target, told: OnDownload, *, stored: bool
) -> None:
    """Receive the rest."""
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if target.size and target.etag:
        headers |= {"Range": f"bytes={target.size}-", "If-Range": target.etag}
    with transport.stream(route, params=params, headers=headers, timeout=_TIMEOUT_S) as response:
        if response.status_code != 206 and target.size:
            target.restart()
        target.etag = response.headers.get("etag")
        if (stored and not _digest(target)) or "text/html" in response.headers.get("content-type", ""):
            found = f"{problems.describe(response)}, which is no file of the service's"
            raise transport.mismatch(found, response)
        length = response.headers.get("content-length", "")
        total = target.size + int(length) if length.isdigit() else None
        for block in response.iter_bytes():
            target.write(block)
            told(target.size, total)


def _check(target: Target) -> None:
    """Stored files have their SHA-256 as `ETag`."""
    digest = _digest(target)
    if digest and digest != target.sha256:
        message = f"{target.path} arrived otherwise than the server has it; nothing of it was kept, ask again"
        raise DigestMismatch(message)


def _digest(target: Target) -> str:
    """The SHA-256 in the `ETag`; empty where it is none."""
    found = (target.etag or "").removeprefix("W/").strip('"')
    return found if re.fullmatch("[0-9a-f]{64}", found) else ""
