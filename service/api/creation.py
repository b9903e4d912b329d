"""How records come into being: bodies streamed into storage, and every creation answered once per idempotency key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from service.api.dependencies import Parts
from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.errors import InvalidRequest
from service.registry.ids import new_id
from service.registry.repositories.records import now
from service.registry.unit_of_work import UnitOfWork

IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, description="Kept 24 hours.")
]
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Created:
    """What a creation came to: the answer's body, the ids to ring, and whether it was answered before."""

    answer: str
    ids: Sequence[str]
    replayed: bool


def create_once(
    parts: Parts,
    key: str | None,
    content: Sequence[str],
    make: Callable[[UnitOfWork], tuple[BaseModel, Sequence[str]]],
) -> Created:
    """Run `make` in one transaction and return its record as JSON, or the answer that this key was given before.

    `content` is what the key stands for: digests and options, not bytes with boundaries. Rings after the commit.
    """
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    with parts.registry.write() as unit:
        if key is not None and (answer := unit.keys.answer_of(key, fingerprint)) is not None:
            return Created(answer, (), replayed=True)
        record, ids = make(unit)
        answer = record.model_dump_json()
        if key is not None:
            unit.keys.keep(key, fingerprint, answer)
    parts.doorbell.ring(*ids)
    return Created(answer, ids, replayed=False)


def is_multipart(request: Request) -> bool:
    """Whether the body comes in parts."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def receive_upload(
    request: Request, parts: Parts, stack: ExitStack
) -> tuple[StagedFile, dict[str, str], str | None]:
    """Store the raw body, or the part `file`; return it with the other parts' texts and the file's own name."""
    if is_multipart(request):
        async with request.form(max_files=1) as form:
            staged, filename = await stage_part(form, "file", parts, stack)
            return staged, form_texts(form), filename
    staged = stack.enter_context(parts.registry.artifacts.stage(limit=parts.settings.max_upload_bytes))
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _CHUNK:
            await run_in_threadpool(staged.write, bytes(buffer))
            buffer.clear()
    await run_in_threadpool(staged.write, bytes(buffer))
    await _seal(staged, "body")
    return staged, {}, None


async def stage_part(form: FormData, name: str, parts: Parts, stack: ExitStack) -> tuple[StagedFile, str | None]:
    """Store the file part `name`; raises InvalidRequest if it is missing."""
    part = form.get(name)
    if not isinstance(part, UploadFile):
        found = ", ".join(form) or "none"
        raise InvalidRequest("missing_part", f"a file part named {name!r} is needed; found: {found}", field=name)
    staged = stack.enter_context(parts.registry.artifacts.stage(limit=parts.settings.max_upload_bytes))
    while chunk := await part.read(_CHUNK):
        await run_in_threadpool(staged.write, chunk)
    await _seal(staged, name)
    return staged, part.filename


def form_texts(form: FormData) -> dict[str, str]:
    """The parts that are plain text."""
    return {name: value for name, value in form.items() if isinstance(value, str)}


def parse_json(text: str, field: str) -> Any:
    """Parse a JSON text that came as a query parameter or part; raises InvalidRequest."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest("invalid_json", f"{field} is not valid JSON: {error}", field=field) from error


def add_dataset(unit: UnitOfWork, staged: StagedFile, name: str | None, options: dict[str, Any]) -> tables.Dataset:
    """Keep the file and insert the record; inspection is open work."""
    row = tables.Dataset(id=new_id("ds"), name=_named(name, "dataset"), options=options, **_fresh(staged))
    unit.datasets.add(row)
    unit.work.open(row.id)
    return row


def add_model(unit: UnitOfWork, staged: StagedFile, name: str | None, options: dict[str, Any]) -> tables.Model:
    """Keep the file and insert the record; inspection is open work."""
    row = tables.Model(
        id=new_id("mdl"), name=_named(name, "model"), origin="uploaded", options=options, **_fresh(staged)
    )
    unit.models.add(row)
    unit.work.open(row.id)
    return row


def add_calibrator(
    unit: UnitOfWork, staged: StagedFile, name: str | None, method: str, options: dict[str, Any]
) -> tables.Calibrator:
    """Keep the scores and insert the record; fitting is open work."""
    fresh = {**_fresh(staged), "status": "running"}
    row = tables.Calibrator(id=new_id("cal"), name=_named(name, "calibrator"), method=method, options=options, **fresh)
    unit.calibrators.add(row)
    unit.work.open(row.id)
    return row


def _fresh(staged: StagedFile) -> dict[str, Any]:
    # Kept inside the transaction: a deletion of the same content cannot come between file and record.
    return {"sha256": staged.keep(), "bytes": staged.size, "status": "inspecting", "created_at": now()}


def _named(name: str | None, otherwise: str) -> str:
    cleaned = "".join(character for character in name or "" if character.isprintable()).strip()
    return cleaned[:200] or otherwise


async def _seal(staged: StagedFile, field: str) -> None:
    """The file is complete: on the disk before any transaction begins, and not empty."""
    await run_in_threadpool(staged.seal)
    if staged.size == 0:
        raise InvalidRequest("empty_upload", "the file is empty; send its bytes as the body", field=field)
