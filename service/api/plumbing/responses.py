"""The responses of handlers: a record or a page of them as JSON, and stored files, each with its `ETag`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel
from pydantic_core import from_json, to_json
from starlette.types import Message, Receive, Scope, Send

from fedlas.contract.base import JsonObject
from fedlas.contract.profiles import PriorsInput
from fedlas.contract.records import BatchRecord, CalibratorRecord, DatasetRecord, JobRecord, ModelRecord
from service.api.plumbing.declarations import BINARY, STORED, operation
from service.api.plumbing.idempotency import Creation
from service.api.plumbing.services import Services
from service.http.problems import problem
from service.registry import tables
from service.registry.errors import InvalidRequest

#: Records of a page are made and written one by one until there are so many bytes; the page holds at least one.
MAX_BYTES = 1024**2
#: When to ask again for a record that is not final.
RETRY_AFTER_S = "2"
_FILE = "application/octet-stream"
#: A browser must not guess another content type: an uploaded file is no page.
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}

Item = TypeVar("Item", bound=BaseModel)
#: A record that becomes final.
Record = DatasetRecord | ModelRecord | JobRecord | BatchRecord | CalibratorRecord

Limit = Annotated[
    int, Query(ge=1, le=1000, description="Records per page at most; one of about 1 MiB ends before that.")
]
After = Annotated[
    str | None, Query(max_length=100, description="Continue after this id, whether or not its record is still there.")
]

PriorsOption = Annotated[
    Literal["input"] | None,
    Query(description="`input`: the graph with the input `class_priors` (K,), whose default are the file's priors."),
]


def created(creation: Creation, collection: str, status: int = 201, **headers: str) -> Response:
    """Answer a new record, as JSON, with its `Location`; with `Retry-After` where it is not final yet."""
    headers["Location"] = f"{collection}/{from_json(creation.record)['id']}"
    if creation.replayed:
        headers["Idempotent-Replayed"] = "true"
    if status == 202:
        headers["Retry-After"] = RETRY_AFTER_S
    return Response(creation.record, status, headers=headers, media_type="application/json")


def tagged(request: Request, record: BaseModel, *, headers: Mapping[str, str] | None = None) -> Response:
    """Answer a single record with its `ETag`, or 304 if the client already has it."""
    return tagged_bytes(request, record.model_dump_json().encode(), media_type="application/json", headers=headers)


def tagged_bytes(
    request: Request, body: bytes, *, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer `body` with its `ETag`, or 304 if the client already has it."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    all_headers = {"ETag": etag, "Cache-Control": "no-cache", **_NO_SNIFFING, **(headers or {})}
    if etag_matches(request, etag):
        return Response(status_code=304, headers=all_headers)
    return Response(body, media_type=media_type, headers=all_headers)


def stored_graph(
    request: Request, services: Services, row: tables.Model | tables.Calibrator, digest: str, class_priors: PriorsOption
) -> Response:
    """Answer an ONNX file, with the input `class_priors` where that is asked for."""
    stored = None if class_priors is None else (row.profile or {}).get("priors_input")
    added = None if stored is None else PriorsInput.read(stored)
    return stored_file(request, services, digest, f"{Path(row.name).stem}-{row.id}.onnx", added=added)


def stored_file(
    request: Request,
    services: Services,
    digest: str,
    filename: str,
    *,
    media_type: str = _FILE,
    added: PriorsInput | None = None,
) -> Response:
    """Answer a stored file, and `added` behind it, with its digest as `ETag`, or 304 if the client has it."""
    etag = f'"{digest if added is None else added.sha256}"'
    if etag_matches(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    path = services.registry.artifacts.path(digest)
    suffix = b"" if added is None else bytes.fromhex(added.suffix)
    return StoredFile(path, suffix, media_type=media_type, filename=filename, headers={"ETag": etag, **_NO_SNIFFING})


class StoredFile(FileResponse):
    """A file with bytes behind it, or ranges of both; what is no range of them is refused as everything else is."""

    def __init__(self, path: Path, suffix: bytes, **options: Any) -> None:
        stat = path.stat()
        self.seam, self.suffix, self.size = stat.st_size, suffix, stat.st_size + len(suffix)
        super().__init__(path, stat_result=os.stat_result((*stat[:6], self.size, *stat[7:])), **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused, position, last = False, 0, self.size - 1

        async def send_checked(message: Message) -> None:
            nonlocal refused, position, last
            refused = refused or message.get("status") in (400, 416)
            if self.suffix and message.get("status") == 206:
                position, last, _ = map(int, re.findall(rb"\d+", dict(message["headers"])[b"content-range"]))
            position += len(message.get("body", b""))
            if message.get("more_body") is False:  # here the file ends, or what was asked of it
                message["body"] += self.suffix[position - self.seam : last + 1 - self.seam]
            if not refused:
                await send(message)

        # Several ranges are answered by the whole, as RFC 9110 (14.2) allows: an answer has one media type.
        headers = [pair for pair in scope["headers"] if pair[0] != b"range" or b"," not in pair[1]]
        await super().__call__({**scope, "headers": headers}, receive, send_checked)
        if refused:
            detail = f"the file has {self.size} bytes; expected a range of them, such as 'bytes=0-99'"
            real = {"Content-Range": f"bytes */{self.size}"}
            await problem(416, "range_not_satisfiable", detail, path=scope["path"], headers=real)(scope, receive, send)


def downloading(*codes: str) -> JsonObject:
    return operation(*codes, *STORED, tagged=True, ranges=_FILE, content={_FILE: {"schema": BINARY}})


def etag_matches(request: Request, etag: str) -> bool:
    """True where `If-None-Match` names this tag (weakly) or anything."""
    tags = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    return "*" in tags or etag in tags


def page_of(records: Iterable[Item], limit: int, cursor_of: Callable[[Item], str]) -> Response:
    """Answer the first of these; there must be one more than `limit` among them where more follow."""
    return json_page(((cursor_of(record), record.model_dump_json().encode()) for record in records), limit)


def json_page(
    records: Iterable[tuple[str | int, bytes]],
    limit: int,
    *,
    headers: Mapping[str, str] | None = None,
    before: bytes = b"",
) -> Response:
    """A page of records, each its cursor and JSON; `before` are members of the page that stand before the records."""
    written: list[bytes] = []
    size, last, following = 0, "", None
    for cursor, record in records:
        if len(written) == limit or (written and size + len(record) > MAX_BYTES):
            following = last
            break
        written.append(record)
        last = str(cursor)
        size += len(record) + 1
    end = b'"has_more":%b,"next":%b' % (to_json(following is not None), to_json(following))
    content = b'{%b"data":[%b],%b}' % (before, b",".join(written), end)
    return Response(content, media_type="application/json", headers=headers)


def cursor(after: str | None, prefix: str) -> str | None:
    """The id after which a page begins; raises InvalidRequest for what can be none.

    Ids sort by time, so that a page goes on where a record stood that was deleted meanwhile.
    """
    if after is None or re.fullmatch(rf"{prefix}_[0-9a-z]{{26}}", after):
        return after
    message = f"after is {after!r}; expected an id of this list, such as the last one of the page before"
    raise InvalidRequest("invalid_cursor", message, field="after")
