"""Multipart forms: every file is streamed to the store, and counted and hashed on the way.

Parts that are not asked for are refused before their content is read, and what is no file is short: nothing of a form
waits in a temporary folder, and no more of it than `_MOST_BYTES` in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api.services import in_thread
from service.registry.artifacts import StagedFile
from service.registry.errors import InvalidRequest
from service.registry.json_models import objection

#: Bytes that are parsed at once, in a thread: the parser takes 1 µs for each byte of a hostile body.
CHUNK = 1024 * 1024
_MOST_PARTS = 48
#: Of all parts together that are no files; the longest, a million class names, have less than half of it.
_MOST_BYTES = 4 * 1024**2
_LONGEST_NAME = 100


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
        """Of all parts."""
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


async def receive_form(
    request: Request,
    stage: Callable[[], StagedFile],
    stack: ExitStack,
    *,
    files: Collection[str],
    documents: Collection[str] = (),
) -> Form:
    """Read the body; what is staged is discarded when `stack` is left, unless it was kept.

    Args:
        files: the parts that are files.
        documents: parts that many clients send as a file, and that are no longer than others; with these, no other
            part is taken.

    Raises:
        InvalidRequest: what arrives is no form, or has parts that are not asked for, too many, or too long ones.
    """
    reader = _Reader(stage, stack, files, documents)
    parser = _parser(request.headers.get("content-type", ""), reader)
    try:
        async for piece in pieces(request):
            await in_thread(parser.write, piece)
    except FormParserError as error:
        raise InvalidRequest("invalid_form", f"the body is not multipart/form-data: {error}"[:300]) from error
    if not reader.ended:
        raise InvalidRequest("invalid_form", "the body ends before the last boundary of its form")
    return reader.form


def _parser(content_type: str, reader: _Reader) -> MultipartParser:
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidRequest("invalid_form", "the Content-Type of a form needs its boundary")
    try:
        return MultipartParser(
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
    except FormParserError as error:
        raise InvalidRequest("invalid_form", str(error)) from error


class _Reader:
    """The callbacks of the parser, in the order of the body."""

    def __init__(
        self, stage: Callable[[], StagedFile], stack: ExitStack, files: Collection[str], documents: Collection[str]
    ) -> None:
        self.form = Form()
        self.ended = False
        self._stage, self._stack = stage, stack
        self._files, self._documents = files, documents
        self._disposition, self._name, self._value = b"", b"", b""
        self._take: Callable[[bytes], object] = len
        self._parts, self._bytes = 0, 0

    def part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidRequest("invalid_form", f"a form has {_MOST_PARTS} parts at most")
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
            staged = self._stack.enter_context(self._stage())
            self.form.files[name] = staged, filename.decode("utf-8", "replace")
            self._take = staged.write
        elif filename is not None and name not in self._documents:
            needed = " or ".join(map(repr, self._files))
            message = f"a file part named {needed} is needed; found: {name}"
            raise InvalidRequest("missing_part", message, field=next(iter(self._files)))
        else:
            self._take = partial(self._append, self.form.contents.setdefault(name, bytearray()))

    def _checked(self, given: bytes) -> str:
        """The name of the part that begins, if it may come."""
        name = _text(given, "the name of a part")
        if not name or len(name) > _LONGEST_NAME:
            raise InvalidRequest("invalid_form", f"a part needs a name of 1 to {_LONGEST_NAME} characters")
        if name in self.form.files or name in self.form.contents:
            raise InvalidRequest("invalid_form", f"there are two parts {name!r}; needed is one", field=name)
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
        if self._bytes > _MOST_BYTES:
            raise InvalidRequest("invalid_form", f"the parts that are no files have more than {_MOST_BYTES} bytes")
        content += piece


def _text(content: bytes, name: str) -> str:
    """The content as text that can be kept; raises InvalidRequest."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("invalid_form", f"{name} is not UTF-8 text", field=name) from error
    if found := objection(text):
        raise InvalidRequest("invalid_form", f"{name} {found}", field=name)
    return text
