"""`/v1/uploads`: resumable uploads; a broken connection costs a piece and not the file.

The pieces follow what resumable uploads have in common (tus 1.0, draft-ietf-httpbis-resumable-upload): `HEAD` returns
the offset, `PATCH` continues there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Request, Response

from fedlas.contract.records import UploadRecord
from fedlas.contract.requests import UploadRequest
from service.api.plumbing.declarations import BINARY, CREATED, KEYED, operation
from service.api.plumbing.idempotency import IdempotencyKey, Key, create_once
from service.api.plumbing.receiving import CHUNK, is_multipart
from service.api.plumbing.responses import created, tagged
from service.api.plumbing.routing import Route
from service.api.plumbing.services import ServicesDep, in_thread
from service.registry import tables
from service.registry.errors import InvalidRequest, OffsetMismatch, Stalled, TooLarge
from service.registry.presenters import upload_record
from service.registry.registry import UnitOfWork
from service.registry.resumable_uploads import ResumableUpload
from service.registry.tables import new_id, now

if TYPE_CHECKING:
    from hashlib import _Hash

router = APIRouter(route_class=Route, prefix="/v1/uploads", tags=["uploads"])

#: A client that sends nothing for so long has lost its connection, and its next one must find the upload free.
_TIMEOUT_S = 30.0
_PROGRESS = ("Upload-Offset", "Upload-Length", "Upload-Complete")

Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, description="Where this piece begins: what HEAD returns.")]
Checksum = Annotated[
    str | None,
    Header(alias="Upload-Checksum", description="The digest of this piece: `sha256`, a space, and base64."),
]


@router.post(
    "",
    status_code=201,
    response_model=UploadRecord,
    openapi_extra=operation(*KEYED, "storage_unavailable", headers={201: [*CREATED, *_PROGRESS]}),
)
async def create_upload(services: ServicesDep, body: UploadRequest, key: IdempotencyKey = None) -> Response:
    """Begin a resumable upload; its pieces follow with PATCH, and its id takes the place of a body."""
    limit = services.settings.max_upload_bytes
    if body.bytes > limit:
        raise TooLarge("too_large", f"{body.bytes} bytes are more than the limit of {limit} bytes", field="bytes")

    def make(unit: UnitOfWork) -> UploadRecord:
        row = unit.uploads.add(tables.Upload(id=new_id("upl"), bytes=body.bytes, created_at=now()))
        services.registry.resumable_uploads.create(row.id)
        return upload_record(row, offset=0, touched_at=row.created_at)

    answer = await create_once(services, Key.of("uploads", key), [body.model_dump_json()], make)
    return created(answer, "/v1/uploads", 201, **_headers(0, body.bytes))


@router.get(
    "/{upload_id}",
    response_model=UploadRecord,
    openapi_extra=operation("unknown_upload", headers={200: _PROGRESS}, tagged=True),
)
def get_upload(request: Request, services: ServicesDep, upload_id: str) -> Response:
    """Return the state of an upload; also in `Upload-Offset`; HEAD answers the same headers without the record."""
    with services.registry.read() as unit:
        row = unit.uploads.get(upload_id)
    offset, touched_at = services.registry.resumable_uploads.state(upload_id)
    record = upload_record(row, offset=offset, touched_at=touched_at)
    return tagged(request, record, headers=_headers(offset, row.bytes))


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_description="The piece is stored; `Upload-Offset` is where the next one begins.",
    response_class=Response,
    openapi_extra=operation(
        *("unknown_upload", "offset_mismatch", "upload_busy", "upload_too_long", "upload_stalled", "not_raw"),
        *("invalid_checksum", "checksum_mismatch", "too_large", "storage_unavailable"),
        headers={204: _PROGRESS},
        more={
            "requestBody": {
                "description": "The bytes of the piece; `application/offset+octet-stream`, as tus has it, works too.",
                "required": True,
                "content": {"application/octet-stream": {"schema": BINARY}},
            }
        },
    ),
)
async def append_to_upload(
    request: Request, services: ServicesDep, upload_id: str, offset: Offset, checksum: Checksum = None
) -> Response:
    """Send a piece of an upload. It must begin at the offset that HEAD returns, else 409 with the right one.

    What arrived before a connection broke is kept. A piece that is refused (409, 413, 422) changes nothing.
    """
    if is_multipart(request):
        raise InvalidRequest("not_raw", "send the piece as the raw body, not as multipart/form-data", field="body")
    expected = None if checksum is None else _parse_checksum(checksum)
    length = (await services.read(lambda unit: unit.uploads.get(upload_id))).bytes
    with await in_thread(services.registry.resumable_uploads.open, upload_id) as file:
        _require_fit(request, file, offset, length)
        try:
            hasher = None if expected is None else hashlib.sha256()
            await _append(request, file, length, hasher)
            if hasher is not None and hasher.digest() != expected:
                message = "the piece's SHA-256 is not the one in Upload-Checksum; send it again"
                raise InvalidRequest("checksum_mismatch", message, field="Upload-Checksum")
        except (TooLarge, InvalidRequest):
            await in_thread(file.take_back)
            raise
        await in_thread(file.seal)
        return Response(status_code=204, headers=_headers(file.size, length))


@router.delete(
    "/{upload_id}", status_code=204, response_class=Response, openapi_extra=operation("unknown_upload", "upload_busy")
)
def delete_upload(services: ServicesDep, upload_id: str) -> None:
    """Delete an upload; 409 while a piece arrives."""
    with services.registry.read() as unit:
        unit.uploads.get(upload_id)
    services.registry.forget_upload(upload_id)


def _require_fit(request: Request, file: ResumableUpload, offset: int, length: int) -> None:
    """Refuse before the first byte what can be known to be wrong."""
    if offset != file.size:
        message = f"the upload has {file.size} bytes, so the next piece begins at {file.size}, not at {offset}"
        raise OffsetMismatch("offset_mismatch", message, offset=file.size)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and offset + int(declared) > length:
        raise _too_long(length)


async def _append(request: Request, file: ResumableUpload, length: int, hasher: _Hash | None) -> None:
    """Write the body as it arrives, and also what came before a broken connection; `hasher` hashes all of it."""

    def store(piece: bytes) -> None:
        file.write(piece)
        if hasher is not None:
            hasher.update(piece)

    buffer = bytearray()
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(_TIMEOUT_S):
                chunk = await anext(stream, None)
            buffer += chunk or b""
            if file.size + len(buffer) > length:
                raise _too_long(length)
            if chunk is None or len(buffer) >= CHUNK:
                piece, buffer = bytes(buffer), bytearray()
                await in_thread(store, piece)
            if chunk is None:
                break
    except TimeoutError as error:
        message = f"nothing arrived for {_TIMEOUT_S:.0f} s; what came before is kept, go on from Upload-Offset"
        raise Stalled("upload_stalled", message) from error
    finally:
        store(bytes(buffer))  # little, and in a cancelled task nothing can be awaited any more


def _parse_checksum(text: str) -> bytes:
    algorithm, _, encoded = text.strip().partition(" ")
    try:
        digest = base64.b64decode(encoded, validate=True) if algorithm.lower() in ("sha256", "sha-256") else b""
    except binascii.Error:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        message = "Upload-Checksum must be 'sha256', a space, and the SHA-256 of the piece in base64"
        raise InvalidRequest("invalid_checksum", message, field="Upload-Checksum")
    return digest


def _too_long(length: int) -> TooLarge:
    message = f"the piece goes beyond the {length} bytes that were announced; it was not kept"
    return TooLarge("upload_too_long", message)


def _headers(offset: int, length: int) -> dict[str, str]:
    return {
        "Upload-Offset": str(offset),
        "Upload-Length": str(length),
        "Upload-Complete": "?1" if offset == length else "?0",
        "Cache-Control": "no-store",
    }
