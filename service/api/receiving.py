"""Received files: a body, a part of a form, or a finished upload in place of either."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Protocol

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from service.api.forms import CHUNK, Form, receive_form
from service.api.services import Services
from service.api.threads import in_thread
from service.registry.artifacts import StagedFile
from service.registry.errors import Conflict, InvalidRequest, NotFound, Unavailable, UnknownReference
from service.registry.registry import Registry
from service.registry.resumable_uploads import ResumableUpload
from service.registry.unit_of_work import UnitOfWork

_FILE = "file"


class ReceivedFile(Protocol):
    """A file that is wholly here and waits for its record."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    @property
    def fingerprint(self) -> str:
        """Its part in the fingerprint of an idempotency key."""

    def keep(self, unit: UnitOfWork) -> str:
        """Make it an artifact, inside the transaction that makes its record; returns its digest."""


class SentFile:
    """A file that came with this request."""

    def __init__(self, staged: StagedFile) -> None:
        self._staged = staged
        self.size = staged.size
        self.fingerprint = staged.digest

    def keep(self, unit: UnitOfWork) -> str:
        """Move it to its place."""
        return self._staged.keep()


class FinishedUpload:
    """A finished upload: its row goes with the transaction that makes the record, its own file after that."""

    def __init__(self, registry: Registry, upload_id: str, file: ResumableUpload) -> None:
        self._registry = registry
        self._id = upload_id
        self._file = file
        self._kept = False
        self.size = file.size
        self.fingerprint = upload_id

    def keep(self, unit: UnitOfWork) -> str:
        """Take the upload; raises UnknownReference if another request did."""
        unit.uploads.consume(self._id)
        digest = self._file.digest()
        self._registry.artifacts.adopt(self._file.path, digest)
        self._kept = True
        return digest

    def __enter__(self) -> FinishedUpload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept and kind is None:
            with suppress(Unavailable):  # the record is there; what is left of the upload goes after a day
                self._registry.resumable_uploads.remove(self._id)
        self._file.close()


class UnknownUpload:
    """No upload has this id now; a request that was answered before, under the same key, is answered again."""

    def __init__(self, upload_id: str) -> None:
        self.size = 0
        self.fingerprint = upload_id

    def keep(self, unit: UnitOfWork) -> str:
        """Raises UnknownReference."""
        unit.uploads.consume(self.fingerprint)
        raise UnknownReference("unknown_upload", f"there is no upload {self.fingerprint!r}", field="upload_id")


async def receive_file(
    request: Request, services: Services, stack: ExitStack, *, upload_id: str | None = None
) -> tuple[ReceivedFile, dict[str, str], str | None]:
    """Take the upload, the part `file` or the raw body; return it with the other parts' texts and the file's name."""
    if is_multipart(request):
        form = await receive_form(request, lambda: _staged(services), stack, files=(_FILE,))
        texts = form.texts()
        file, filename = await take_part(form, _FILE, services, stack, upload_id=texts.get("upload_id", upload_id))
        return file, texts, filename
    if upload_id is not None:
        async for chunk in request.stream():
            if chunk:
                raise _both("body")
        return await take_upload(services, upload_id, stack), {}, None
    staged = stack.enter_context(_staged(services))
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= CHUNK:
            await run_in_threadpool(staged.write, bytes(buffer))
            buffer.clear()
    await run_in_threadpool(staged.write, bytes(buffer))
    return await _sealed(staged, "body"), {}, None


async def receive_parts(
    request: Request, services: Services, stack: ExitStack, *, files: Collection[str], documents: Collection[str]
) -> Form:
    """The form of a request that brings several files along; raises InvalidRequest for parts with other names."""
    return await receive_form(request, lambda: _staged(services), stack, files=files, documents=documents)


async def take_part(
    form: Form, name: str, services: Services, stack: ExitStack, *, upload_id: str | None
) -> tuple[ReceivedFile, str | None]:
    """Take the upload, or the file part `name`; raises InvalidRequest unless it is exactly one of the two."""
    if upload_id is not None:
        if name in form.names():
            raise _both(name)
        return await take_upload(services, upload_id, stack), None
    if name not in form.files:
        found = ", ".join(form.names()) or "none"
        raise InvalidRequest("missing_part", f"a file part named {name!r} is needed; found: {found}", field=name)
    staged, filename = form.files[name]
    return await _sealed(staged, name), filename


def _staged(services: Services) -> StagedFile:
    return services.registry.artifacts.stage(limit=services.settings.max_upload_bytes)


async def take_upload(services: Services, upload_id: str, stack: ExitStack) -> ReceivedFile:
    """Hold a finished upload until `stack` is left; raises Conflict while bytes are missing or arriving."""
    return await in_thread(_finished, services.registry, upload_id, stack)


def _finished(registry: Registry, upload_id: str, stack: ExitStack) -> FinishedUpload | UnknownUpload:
    with registry.read() as unit:
        row = unit.uploads.find(upload_id)
    if row is None:
        return UnknownUpload(upload_id)
    try:
        file = registry.resumable_uploads.open(upload_id)
    except NotFound:  # the storage has lost it, or another request took it
        return UnknownUpload(upload_id)
    finished = stack.enter_context(FinishedUpload(registry, upload_id, file))
    if file.size < row.bytes:
        message = f"{upload_id} has {file.size} of {row.bytes} bytes; send the rest with PATCH first"
        raise Conflict("upload_incomplete", message, field="upload_id")
    # Here, since both may take a while, and a write transaction blocks all other writers.
    registry.artifacts.deliver(file.path, file.digest())
    return finished


def is_multipart(request: Request) -> bool:
    """Whether the body comes in parts."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def _both(place: str) -> InvalidRequest:
    message = f"upload_id takes the place of the {place}, but both came; send one of them"
    return InvalidRequest("file_and_upload", message, field="upload_id")


async def _sealed(staged: StagedFile, field: str) -> SentFile:
    """The file is complete: on the disk before any transaction begins, and not empty."""
    await run_in_threadpool(staged.seal)
    if staged.size == 0:
        raise InvalidRequest("empty_upload", "the file is empty; send its bytes as the body", field=field)
    return SentFile(staged)
