"""Received files: a body, a part of a multipart form, or a finished upload in place of either.

Every file is streamed to the store, and counted and hashed on the way. Parts that are not asked for are refused before
their content is read, and other parts are short: nothing of a form waits in a temporary folder, and no more of it than
`_MAX_BYTES` in memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from fedlas.contract.base import objection
from fedlas.model_files import pack
from service.api.plumbing.services import Services, in_thread
from service.registry.artifacts import StagedFile
from service.registry.errors import Conflict, InvalidRequest, NotFound, Unavailable, UnknownReference
from service.registry.registry import Registry, UnitOfWork
from service.registry.tables import now

#: Bytes that are parsed at once, in a thread: the parser takes 1 µs for each byte of a hostile body.
CHUNK = 1024 * 1024
_MAX_PARTS = 48
#: All parts together that are no files; the longest, a million class names, have less than half of it.
_MAX_BYTES = 4 * 1024**2
_MAX_PART_NAME = 100
_FILE = "file"
_MODEL = "model"
_WEIGHTS = "data"
#: Parts of a form with a model: a graph under one of two names, and the file of its weights, where it has one.
MODEL_PARTS = (_FILE, _MODEL, _WEIGHTS)
_MAX_RECORD_NAME = 200
_MAX_FILE_NAME = 255


@dataclass(slots=True)
class Form:
    """A received form.

    Attributes:
        files: by the name of their part, with the name that the sender gave them.
        contents: the other parts.
    """

    files: dict[str, tuple[StagedFile, str]] = field(default_factory=dict)
    contents: dict[str, bytearray] = field(default_factory=dict)

    def texts(self) -> dict[str, str]:
        """The other parts as text; raises InvalidRequest."""
        return {name: _text(bytes(content), name) for name, content in self.contents.items()}

    def names(self) -> list[str]:
        return [*self.files, *self.contents]


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of about `CHUNK` bytes; the last one is shorter."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= CHUNK:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


async def receive_parts(
    request: Request, services: Services, stack: ExitStack, *, files: Collection[str], documents: Collection[str] = ()
) -> Form:
    """Read the body; what is staged is discarded when `stack` is left, unless it was kept.

    Args:
        files: the parts that are files.
        documents: parts that many clients send as a file, and that are no longer than others; with these, no other
            part is taken.

    Raises:
        InvalidRequest: what arrives is no form, or has parts that are not asked for, too many, or too long ones.
    """
    boundary = parse_options_header(request.headers.get("content-type", ""))[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidRequest("invalid_form", "the Content-Type of a form needs its boundary")
    reader = _Reader(services, stack, files, documents)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.part_begins,
                "on_part_data": reader.part_goes_on,
                "on_header_field": reader.header_name,
                "on_header_value": reader.header_value,
                "on_header_end": reader.header_ends,
                "on_headers_finished": reader.headers_end,
                "on_end": reader.form_ends,
            },
        )
        async for piece in pieces(request):
            await in_thread(parser.write, piece)
    except FormParserError as error:
        raise InvalidRequest("invalid_form", f"the body is not multipart/form-data: {error}"[:300]) from error
    if not reader.ended:
        raise InvalidRequest("invalid_form", "the body ends before the last boundary of its form")
    return reader.form


class _Reader:
    """The callbacks of the parser, in the order of the body."""

    def __init__(
        self, services: Services, stack: ExitStack, files: Collection[str], documents: Collection[str]
    ) -> None:
        self.form = Form()
        self.ended = False
        self._services, self._stack = services, stack
        self._files, self._documents = files, documents
        self._disposition, self._name, self._value = b"", b"", b""
        self._take: Callable[[bytes], object] = len
        self._parts, self._bytes = 0, 0

    def part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidRequest("invalid_form", f"a form has {_MAX_PARTS} parts at most")
        self._disposition = b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_ends(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def headers_end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name, filename = self._checked(options.get(b"name", b"")), options.get(b"filename")
        if filename is not None and name in self._files:
            staged = self._stack.enter_context(_staged(self._services))
            self.form.files[name] = staged, filename.decode("utf-8", "replace")
            self._take = staged.write
        elif filename is not None and name not in self._documents:
            message = f"a file part named {' or '.join(map(repr, self._files))} is needed; found: {name}"
            raise InvalidRequest("missing_part", message, field=next(iter(self._files)))
        else:
            self._take = partial(self._append, self.form.contents.setdefault(name, bytearray()))

    def _checked(self, given: bytes) -> str:
        """The name of the part that begins, if it may come."""
        name = _text(given, "the name of a part")
        if not name or len(name) > _MAX_PART_NAME:
            raise InvalidRequest("invalid_form", f"a part needs a name of 1 to {_MAX_PART_NAME} characters")
        if name in self.form.files or name in self.form.contents:
            raise InvalidRequest("invalid_form", f"there are two parts {name!r}; expected one", field=name)
        if self._documents and name not in self._files and name not in self._documents:
            known = ", ".join((*self._files, *self._documents))
            raise InvalidRequest("unknown_part", f"there is no part {name!r}; there are {known}", field=name)
        return name

    def part_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._take(data[start:end])

    def form_ends(self) -> None:
        self.ended = True

    def _append(self, content: bytearray, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes > _MAX_BYTES:
            raise InvalidRequest("invalid_form", f"the parts that are no files have more than {_MAX_BYTES} bytes")
        content += piece


def _text(content: bytes, name: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("invalid_form", f"{name} is not UTF-8 text", field=name) from error
    if reason := objection(text):
        raise InvalidRequest("invalid_form", f"{name} {reason}", field=name)
    return text


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
        name = cleaned[:_MAX_RECORD_NAME] or noun
        return {"name": name, "sha256": self.keep(unit), "bytes": self.size, "created_at": now()}


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
        return await in_thread(_finished, services.registry, upload_id, stack), {}
    staged = stack.enter_context(_staged(services))
    async for piece in pieces(request):
        await run_in_threadpool(staged.write, piece)
    return await _sealed(staged, "body", None), {}


async def take_part(
    form: Form, name: str, services: Services, stack: ExitStack, *, upload_id: str | None
) -> ReceivedFile:
    """Take the upload, or the file part `name`; raises InvalidRequest unless it is exactly one of the two."""
    if upload_id is not None:
        if name in form.names() or _WEIGHTS in form.files:  # a finished upload is a zip of a graph and its weights
            raise _both(name)
        return await in_thread(_finished, services.registry, upload_id, stack)
    if name not in form.files:
        part_names = ", ".join(form.names()) or "none"
        raise InvalidRequest("missing_part", f"a file part named {name!r} is needed; found: {part_names}", field=name)
    staged, filename = form.files[name]
    return await _sealed(staged, name, filename)


async def join_weights(form: Form, name: str, services: Services, stack: ExitStack) -> None:
    """Put one zip into the place of the graph, the part `name`, where the part `data` brings its weights."""
    if name in form.files and _WEIGHTS in form.files:
        form.files[name] = await in_thread(_joined, services, stack, form.files[name], form.files.pop(_WEIGHTS))


def _joined(
    services: Services, stack: ExitStack, graph: tuple[StagedFile, str], weights: tuple[StagedFile, str]
) -> tuple[StagedFile, str]:
    name, stated = (given.replace("\\", "/").rpartition("/")[2][:_MAX_FILE_NAME] for _, given in (graph, weights))
    whole = stack.enter_context(_staged(services))
    for staged, _ in (graph, weights):
        staged.flush()
    with zipfile.ZipFile(whole, "w") as archive:
        pack(archive, (name, graph[0].path), (stated, weights[0].path))
    return whole, graph[1]


def _staged(services: Services) -> StagedFile:
    return services.registry.artifacts.stage(limit=services.settings.max_upload_bytes)


def _finished(registry: Registry, upload_id: str, stack: ExitStack) -> ReceivedFile:
    """Hold a finished upload until `stack` is left; raises Conflict while bytes are missing or arriving.

    Where no upload has this id, only a request that was answered before, under the same key, is answered again.
    """
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
