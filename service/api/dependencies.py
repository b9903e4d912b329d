"""What handlers are given: the parts made by the composition root, and the answers they share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from service.api.group_commit import Together
from service.api.long_poll import Waiting
from service.api.probes import Probes
from service.inference.metrics import ServingMetrics
from service.inference.scheduler import Scheduler
from service.model_repository import Catalogue
from service.queue import Doorbell
from service.registry.contract import FINAL
from service.registry.unit_of_work import Registry
from service.settings import ServiceSettings

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """Everything that lives as long as the process."""

    settings: ServiceSettings
    registry: Registry
    doorbell: Doorbell
    waiting: Waiting
    engine: Scheduler
    metrics: ServingMetrics
    catalogue: Catalogue
    turn: CapacityLimiter  # who writes
    together: Together
    probes: Probes = field(default_factory=Probes)

    async def in_turn(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run a function that writes in a thread, after those that came before it.

        The database lets one write at a time anyway. Threads that queue there wait in no order (with 16 clients on
        SQLite the slowest took 5 s, here 0.1 s) and are missing for reading.
        """
        return await to_thread.run_sync(partial(function, *args, **options), limiter=self.turn)


async def _parts(connection: HTTPConnection) -> Parts:  # a plain function would be sent to a thread
    parts: Parts = connection.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(_parts)]
UploadId = Annotated[
    str | None, Field(max_length=100, description="A finished upload (`/v1/uploads`) in place of the body; used once.")
]
Wait = Annotated[float | None, Query(ge=0, le=60, description="Long poll: seconds to wait for a final state.")]
#: A browser takes what is sent for what it is said to be: bytes of a sender's are no page.
_AS_SAID = {"X-Content-Type-Options": "nosniff"}
#: When to look again at what has not ended yet.
RETRY_AFTER_S = "2"


class Followed(Protocol):
    """A record that comes to an end."""

    @property
    def id(self) -> str:
        """The record's id."""

    @property
    def status(self) -> str:
        """Where it stands."""


R = TypeVar("R", bound=Followed)


async def long_poll(parts: Parts, read: Callable[[], R], wait: float | None) -> R:
    """Read the record; where it is not final, read again as soon as it is, or when `wait` seconds have passed."""
    record = await run_in_threadpool(read)
    if wait and record.status not in FINAL:
        await parts.waiting.for_final(record.id, wait)
        record = await run_in_threadpool(read)
    return record


def still_open(record: Followed) -> dict[str, str]:
    """Headers that say when to look again at a record that has not come to its end."""
    return {} if record.status in FINAL else {"Retry-After": RETRY_AFTER_S}


def tagged(request: Request, record: BaseModel, *, headers: dict[str, str] | None = None) -> Response:
    """Answer a single record with its `ETag`, or 304 if the client already has it."""
    body = record.model_dump_json().encode()
    return tagged_bytes(request, body, media_type="application/json", headers=headers)


def tagged_bytes(request: Request, body: bytes, *, media_type: str, headers: dict[str, str] | None = None) -> Response:
    """Answer `body` with its `ETag`, or 304 if the client already has it."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    all_headers = {"ETag": etag, "Cache-Control": "no-cache", **_AS_SAID, **(headers or {})}
    if etag_matches(request, etag):
        return Response(status_code=304, headers=all_headers)
    return Response(body, media_type=media_type, headers=all_headers)


def stored_file(
    request: Request, parts: Parts, digest: str, filename: str, *, media_type: str = "application/octet-stream"
) -> Response:
    """Answer a stored file, whose `ETag` is its digest, or 304 if the client already has it. Ranges work."""
    etag = f'"{digest}"'
    if etag_matches(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    path = parts.registry.artifacts.path(digest)
    return FileResponse(path, media_type=media_type, filename=filename, headers={"ETag": etag, **_AS_SAID})


def etag_matches(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` names this tag (weakly) or anything."""
    given = request.headers.get("if-none-match", "")
    tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return "*" in tags or etag in tags


def created(record: str, collection: str, status: int = 201, **headers: str) -> Response:
    """Answer a new record, as JSON, with its `Location`; where more is to come of it, with when to ask."""
    all_headers: dict[str, Any] = {"Location": f"{collection}/{from_json(record)['id']}", **headers}
    if status == 202:
        all_headers["Retry-After"] = RETRY_AFTER_S
    return Response(record, status, headers=all_headers, media_type="application/json")
