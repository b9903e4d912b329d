"""The dependencies of handlers: the services of the process, query parameters, and the responses they share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from service.api.services import Services
from service.registry.contract import FINAL


async def _services(connection: HTTPConnection) -> Services:  # a plain function would be sent to a thread
    services: Services = connection.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
UploadId = Annotated[
    str | None, Field(max_length=100, description="A finished upload (`/v1/uploads`) in place of the body; used once.")
]
Wait = Annotated[float | None, Query(ge=0, le=60, description="Long poll: seconds to wait for a final state.")]
#: A browser must not guess another content type: an uploaded file is no page.
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
#: When to ask again for a record that is not final.
RETRY_AFTER_S = "2"


class Pollable(Protocol):
    """A record that becomes final."""

    @property
    def id(self) -> str:
        """The record's id."""

    @property
    def status(self) -> str:
        """The record's status."""


R = TypeVar("R", bound=Pollable)


async def long_poll(services: Services, read: Callable[[], R], wait: float | None) -> R:
    """Read the record; where it is not final, read again as soon as it is, or when `wait` seconds have passed."""
    record = await run_in_threadpool(read)
    if wait and record.status not in FINAL:
        await services.long_poll.for_final(record.id, wait)
        record = await run_in_threadpool(read)
    return record


def still_open(record: Pollable) -> dict[str, str]:
    """`Retry-After` of a record that is not final."""
    return {} if record.status in FINAL else {"Retry-After": RETRY_AFTER_S}


def tagged(request: Request, record: BaseModel, *, headers: dict[str, str] | None = None) -> Response:
    """Answer a single record with its `ETag`, or 304 if the client already has it."""
    body = record.model_dump_json().encode()
    return tagged_bytes(request, body, media_type="application/json", headers=headers)


def tagged_bytes(request: Request, body: bytes, *, media_type: str, headers: dict[str, str] | None = None) -> Response:
    """Answer `body` with its `ETag`, or 304 if the client already has it."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    all_headers = {"ETag": etag, "Cache-Control": "no-cache", **_NO_SNIFFING, **(headers or {})}
    if etag_matches(request, etag):
        return Response(status_code=304, headers=all_headers)
    return Response(body, media_type=media_type, headers=all_headers)


def stored_file(
    request: Request, services: Services, digest: str, filename: str, *, media_type: str = "application/octet-stream"
) -> Response:
    """Answer a stored file, whose `ETag` is its digest, or 304 if the client already has it. Ranges work."""
    etag = f'"{digest}"'
    if etag_matches(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    path = services.registry.artifacts.path(digest)
    return FileResponse(path, media_type=media_type, filename=filename, headers={"ETag": etag, **_NO_SNIFFING})


def etag_matches(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` names this tag (weakly) or anything."""
    given = request.headers.get("if-none-match", "")
    tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return "*" in tags or etag in tags


def created(record: str, collection: str, status: int = 201, **headers: str) -> Response:
    """Answer a new record, as JSON, with its `Location`; with `Retry-After` where it is not final yet."""
    all_headers: dict[str, Any] = {"Location": f"{collection}/{from_json(record)['id']}", **headers}
    if status == 202:
        all_headers["Retry-After"] = RETRY_AFTER_S
    return Response(record, status, headers=all_headers, media_type="application/json")
