"""Received files: a body, a part of a form, or a finished upload in place of either."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from fedlas.model_files import pack
from service.api.forms import Form, pieces, receive_form
from service.api.services import Services, in_thread
from service.registry.artifacts import StagedFile
from service.registry.errors import Conflict, InvalidRequest, NotFound, Unavailable, UnknownReference
from service.registry.registry import Registry
from service.registry.tables import now
from service.registry.unit_of_work import UnitOfWork

_FILE, _MODEL, _WEIGHTS = "file", "model", "data"
#: Parts of a form with a model: a graph under one of two names, and the file of its weights, where it has one.
MODEL_PARTS = (_FILE, _MODEL, _WEIGHTS)
_LONGEST_NAME = 200
_LONGEST_FILE_NAME = 255


@dataclass(frozen=True)
class ReceivedFile:
    """A file that is wholly here and waits for its record.

    Attributes:
        fingerprint: its part in the fingerprint of an idempotency key.
        keep: makes it an artifact, inside the transaction that makes its record; returns its digest.
        name: what its sender called it.
    """

    size: int
    fingerprint: str
    keep: Callable[[UnitOfWork], str]
    name: str | None = None

    def columns(self, unit: UnitOfWork, name: str | None, noun: str) -> dict[str, str | int | datetime]:
        """Keep the file, and return the columns of its record that are made of it; a nameless one is named `noun`."""
        # Kept inside the transaction: a deletion of the same content cannot come between file and record.
        cleaned = "".join(character for character in name or self.name or "" if character.isprintable()).strip()
        shown = cleaned[:_LONGEST_NAME] or noun
        return {"name": shown, "sha256": self.keep(unit), "bytes": self.size, "created_at": now()}


async def receive_file(
    request: Request,
    services: Services,
    stack: ExitStack,
    *,
    upload_id: str | None = None,
    parts: Collection[str] = (_FILE,),
) -> tuple[ReceivedFile, dict[str, str]]:
    """Take the upload, the file among `parts` or the raw body; return it with the texts of the other parts."""
    if is_multipart(request):
        form = await receive_parts(request, services, stack, files=parts)
        texts = form.texts()
        name = _MODEL if _MODEL in form.files else _FILE
        if _MODEL in form.files and _FILE in form.files:
            raise InvalidRequest("invalid_form", f"{_FILE!r} and {_MODEL!r} are both a model; send one of them")
        await join_weights(form, name, services, stack)
        return await take_part(form, name, services, stack, upload_id=texts.get("upload_id", upload_id)), texts
    if upload_id is not None:
        async for chunk in request.stream():
            if chunk:
                raise _both("body")
        return await take_upload(services, upload_id, stack), {}
    staged = stack.enter_context(_staged(services))
    async for piece in pieces(request):
        await run_in_threadpool(staged.write, piece)
    return await _sealed(staged, "body", None), {}


async def receive_parts(
    request: Request, services: Services, stack: ExitStack, *, files: Collection[str], documents: Collection[str] = ()
) -> Form:
    """The form of a request with these files; raises InvalidRequest for parts with other names, given `documents`."""
    return await receive_form(request, lambda: _staged(services), stack, files=files, documents=documents)


async def take_part(
    form: Form, name: str, services: Services, stack: ExitStack, *, upload_id: str | None
) -> ReceivedFile:
    """Take the upload, or the file part `name`; raises InvalidRequest unless it is exactly one of the two."""
    if upload_id is not None:
        if name in form.names() or _WEIGHTS in form.files:  # a finished upload is a zip of a graph and its weights
            raise _both(name)
        return await take_upload(services, upload_id, stack)
    if name not in form.files:
        found = ", ".join(form.names()) or "none"
        raise InvalidRequest("missing_part", f"a file part named {name!r} is needed; found: {found}", field=name)
    staged, filename = form.files[name]
    return await _sealed(staged, name, filename)


async def join_weights(form: Form, name: str, services: Services, stack: ExitStack) -> None:
    """Put one zip into the place of the graph, the part `name`, where the part `data` brings its weights."""
    if name in form.files and _WEIGHTS in form.files:
        form.files[name] = await in_thread(_joined, services, stack, form.files[name], form.files.pop(_WEIGHTS))


def _joined(
    services: Services, stack: ExitStack, graph: tuple[StagedFile, str], weights: tuple[StagedFile, str]
) -> tuple[StagedFile, str]:
    """A zip of the two under the names that their sender gave them; no larger than one file may be."""
    name, stated = (given.replace("\\", "/").rpartition("/")[2][:_LONGEST_FILE_NAME] for _, given in (graph, weights))
    whole = stack.enter_context(_staged(services))
    for staged, _ in (graph, weights):
        staged.flush()
    with zipfile.ZipFile(whole, "w") as archive:
        pack(archive, (name, graph[0].path), (stated, weights[0].path))
    return whole, graph[1]


def _staged(services: Services) -> StagedFile:
    return services.registry.artifacts.stage(limit=services.settings.max_upload_bytes)


async def take_upload(services: Services, upload_id: str, stack: ExitStack) -> ReceivedFile:
    """Hold a finished upload until `stack` is left; raises Conflict while bytes are missing or arriving.

    Where no upload has this id, only a request that was answered before, under the same key, is answered again.
    """
    return await in_thread(_finished, services.registry, upload_id, stack)


def _finished(registry: Registry, upload_id: str, stack: ExitStack) -> ReceivedFile:
    with registry.read() as unit:
        row = unit.uploads.find(upload_id)
    if row is None:
        return _unknown(upload_id)
    try:
        file = registry.resumable_uploads.open(upload_id)
    except NotFound:  # the storage has lost it, or another request took it
        return _unknown(upload_id)
    kept = False

    def leave(kind: object, error: object, trace: object) -> None:
        if kept and kind is None:
            with suppress(Unavailable):  # the record is there; what is left of the upload goes after a day
                registry.resumable_uploads.remove(upload_id)
        file.close()

    stack.push(leave)
    if file.size < row.bytes:
        message = f"{upload_id} has {file.size} of {row.bytes} bytes; send the rest with PATCH first"
        raise Conflict("upload_incomplete", message, field="upload_id")
    # Here, since both may take a while, and a write transaction blocks all other writers.
    registry.artifacts.deliver(file.path, file.digest())

    def keep(unit: UnitOfWork) -> str:
        nonlocal kept
        unit.uploads.consume(upload_id)
        registry.artifacts.adopt(file.path, file.digest())
        kept = True
        return file.digest()

    return ReceivedFile(file.size, upload_id, keep)


def _unknown(upload_id: str) -> ReceivedFile:
    def keep(unit: UnitOfWork) -> str:
        unit.uploads.consume(upload_id)
        raise UnknownReference("unknown_upload", f"there is no upload {upload_id!r}", field="upload_id")

    return ReceivedFile(0, upload_id, keep)


def is_multipart(request: Request) -> bool:
    """Whether the body comes in parts."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def _both(place: str) -> InvalidRequest:
    message = f"upload_id takes the place of the {place}, but both came; send one of them"
    return InvalidRequest("file_and_upload", message, field="upload_id")


async def _sealed(staged: StagedFile, field: str, name: str | None) -> ReceivedFile:
    """The file is complete: on the disk before any transaction begins, and not empty."""
    await run_in_threadpool(staged.seal)
    if staged.size == 0:
        raise InvalidRequest("empty_upload", "the file is empty; send its bytes as the body", field=field)
    return ReceivedFile(staged.size, staged.digest, lambda unit: staged.keep(), name)
