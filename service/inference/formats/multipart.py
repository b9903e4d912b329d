"""Multipart forms: image files, one row each, beside fields that are answer options."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from functools import lru_cache

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.inference.formats.input_types import InputTypes
from service.inference.formats.options import PART, Options, from_part, from_text, merged
from service.registry.errors import InvalidRequest, TooLarge

#: Parts beside the files: every option once, and more, so that the error for a repeated one can name it.
_MAX_FIELDS = 32
#: Of each part; ten thousand parts of the largest headers are read in less than a second.
_MAX_HEADERS = 8
_MAX_HEADER_BYTES = 1024
_BOUNDARY = re.compile(r"[ -~]{0,69}[!-~]")  # RFC 2046, and a little more
#: Some clients write a name that is not ASCII in this form only, which forms do not know.
_FILENAME = re.compile(rb";\s*filename\*=", re.IGNORECASE)
#: The sender gets the error of a bad form; the parser would also log it.
_SILENT = logging.Logger(__name__, logging.CRITICAL + 1)


@lru_cache(maxsize=64)
def media_type(content_type: str) -> tuple[str, str]:
    """`type/subtype` in small letters, and the boundary, of a Content-Type header."""
    kind, parameters = parse_options_header(content_type.encode("latin-1", "replace"))
    return kind.decode("latin-1").strip(), parameters.get(b"boundary", b"").decode("latin-1")


def read_form(body: bytes, boundary: str, types: InputTypes) -> tuple[list[bytes], Options]:
    """The files of a form, in their order and whatever their names, and the options.

    Options are fields of their names, or one part `options` with a JSON object of them.

    Raises:
        InvalidRequest: `invalid_form` where the body is no form or cut off, `invalid_request` for other fields and
            options that are wrong.
        TooLarge: `too_many_rows`.
    """
    if _BOUNDARY.fullmatch(boundary) is None:
        raise _invalid("its Content-Type names no boundary")
    most = types.max_rows + _MAX_FIELDS
    if body.count(b"--" + boundary.encode()) > most + 1:  # before the parser, which is slow, looks at each
        message = f"a form of more than {most} parts; at most {types.max_rows} files"
        raise TooLarge("too_many_rows", message, field="inputs")
    parts = _parts(body, boundary)
    options = merged(*(_options(part.name, part.content) for part in parts if not part.is_row))
    return [part.content for part in parts if part.is_row], options


@dataclass(slots=True)
class _Part:
    """A part: what its headers say, and its bytes."""

    name: str = ""
    is_file: bool = False
    pieces: list[bytes] = field(default_factory=list)

    @property
    def is_row(self) -> bool:
        """Whether it is an image; clients that send every part as a file may send the options so too."""
        return self.is_file and self.name != PART

    @property
    def content(self) -> bytes:
        """Its bytes, whole."""
        return b"".join(self.pieces)


def _options(name: str, content: bytes) -> Options:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("invalid_request", f"{name[:100]}: it is not UTF-8", field=name[:100]) from error
    return from_part(text) if name == PART else {name: from_text(name, text)}


def _parts(body: bytes, boundary: str) -> list[_Part]:
    listener = _Listener()
    parser = MultipartParser(
        boundary.encode(),
        listener.callbacks(),  # type: ignore[arg-type]
        max_header_count=_MAX_HEADERS,
        max_header_size=_MAX_HEADER_BYTES,
    )
    parser.logger = _SILENT
    try:
        parser.write(body)
    except FormParserError as error:
        raise _invalid(str(error)[:200]) from error
    if not listener.ended:
        raise _invalid("it is cut off: the last boundary is missing")
    return listener.parts


class _Listener:
    """Collects the parts that the parser finds."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.ended = False
        self._header = self._value = b""

    def callbacks(self) -> dict[str, object]:
        """By the parser's names."""
        return {
            "on_part_begin": lambda: self.parts.append(_Part()),
            "on_header_begin": self._begin_header,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self.parts[-1].pieces.append(data[start:end]),
            "on_end": self._end,
        }

    def _begin_header(self) -> None:
        self._header = self._value = b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() != b"content-disposition":
            return
        kind, parameters = parse_options_header(self._value)
        part = self.parts[-1]
        if kind != b"form-data" or b"name" not in parameters or part.name:
            raise _invalid("a part's Content-Disposition is not form-data with one name")
        part.name = parameters[b"name"].decode("utf-8", "replace")
        part.is_file = b"filename" in parameters or _FILENAME.search(self._value) is not None

    def _end(self) -> None:
        self.ended = True


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest("invalid_form", f"the body cannot be read as multipart/form-data: {what}", field="inputs")
