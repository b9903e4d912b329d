"""Request formats of `predict` besides JSON: numpy's files, image files and multipart forms become a model's arrays.

An npy file is an array over the bytes of the body; nothing is copied, and no pickle is ever opened.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.lib import format as numpy_format
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.predict.engine.profile import ServingProfile, TensorSpec
from service.predict.formats.images import decoded
from service.predict.formats.json_inputs import PART, Options, from_part, from_query, from_text, merged, shown
from service.predict.formats.signature import check_row_counts, fit
from service.registry.errors import InvalidRequest, TooLarge, UnsupportedFormat

_NPY_MAGIC = b"\x93NUMPY"
_MAX_NPY_HEADER_BYTES = 4096
_MAX_DIMENSIONS = 32
_MAX_VALUES = 1 << 40  # more than a body can hold
#: Text in quotes holds the type; outside of it stand brackets, words and whole numbers, none of them glued together
#: (Python 2 wrote 3L), so that no header makes numpy warn or try twice.
_QUOTED = re.compile(rb"'[^'\\]*'")
_REST = re.compile(rb"(?:[\s{}()\[\]:,-]|\b(?:True|False)\b|\b[0-9]+\b|'')*")
_NPY_VERSIONS = {1: numpy_format.read_array_header_1_0, 2: numpy_format.read_array_header_2_0}
#: Parts beside the files: every option once, and more, so that the error for a repeated one can name it.
_MAX_FIELDS = 32
#: The headers of one part; ten thousand parts of the largest headers are read in less than a second.
_MAX_HEADERS = 8
_MAX_PART_HEADER_BYTES = 1024
_BOUNDARY = re.compile(r"[ -~]{0,69}[!-~]")  # RFC 2046, and a little more
#: Some clients write a name that is not ASCII in this form only, which forms do not know.
_FILENAME = re.compile(rb";\s*filename\*=", re.IGNORECASE)
#: The sender gets the error of a bad form; the parser would also log it.
_SILENT = logging.Logger(__name__, logging.CRITICAL + 1)
Arrays = dict[str, np.ndarray]
_FORM = "multipart/form-data"
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
#: How files begin. (BMP's two letters begin many texts, too.)
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"\x93NUMPY": "application/x-npy"}
#: Media types that say nothing of the content: none at all, and what curl and others send for any body.
UNTOLD = ("", "application/octet-stream", "application/x-www-form-urlencoded")


@dataclass(frozen=True, slots=True)
class InputTypes:
    """The inputs of a model, for readers of any format, and how many rows a request may have."""

    profile: ServingProfile
    max_rows: int

    def only(self, what: str, instead: str) -> TensorSpec:
        """The single input; InvalidRequest `wrong_inputs` where there are several, which `what` cannot hold."""
        if len(self.profile.inputs) > 1:
            names = ", ".join(shown(spec.name) for spec in self.profile.inputs[:20])
            message = f"{what}, and the model has the inputs {names}: send {instead}"
            raise InvalidRequest("wrong_inputs", message, field="inputs")
        return self.profile.inputs[0]

    def rows(self, array: np.ndarray, spec: TensorSpec) -> dict[str, np.ndarray]:
        """The model's array from one of numbers; raises InvalidRequest, TooLarge."""
        if array.ndim != len(spec.shape):
            fit(array, spec)  # says what is wrong with the shape
        check_row_counts({spec.name: len(array)}, self.max_rows)
        return {spec.name: np.require(fit(array, spec), requirements=("C", "A"))}

    def images(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """The rows of the single input from image files; raises InvalidRequest, TooLarge."""
        spec = self.only("image files are rows of one input", "JSON with rows by name")
        check_row_counts({spec.name: len(files)}, self.max_rows)
        return {spec.name: decoded(files, spec, self.profile.preprocessing)}


#: Shape, whether the order is Fortran's, and type of the numbers that follow the header of a npy file.
Header = tuple[tuple[int, ...], bool, np.dtype]


def read_npy(body: bytes, types: InputTypes) -> dict[str, np.ndarray]:
    """The rows of a model with one input; raises InvalidRequest as `array`, and as `InputTypes.rows`."""
    spec = types.only("an npy file holds one array", "binary tensors by name (POST /v2/models/…/infer), or JSON")
    return types.rows(array(body, "the body"), spec)


def array(content: bytes, where: str) -> np.ndarray:
    """The array whose bytes these are, read-only and over the same memory.

    Args:
        where: what the bytes are, for messages.

    Raises:
        InvalidRequest: `object_array` for a pickle, `wrong_dtype` for anything but plain numbers, else `invalid_npy`.
    """
    length_bytes, begins, version = _measured(content, where)
    shape, fortran_order, dtype = _header(content[8:begins], version, length_bytes, where)
    claimed, held = math.prod(shape) * dtype.itemsize, len(content) - begins
    if claimed != held:
        kind = f"shape {list(shape)} of {dtype} ({claimed} bytes)"
        raise _invalid_npy(where, f"its header claims {kind}, but {held} bytes follow")
    order = "F" if fortran_order else "C"
    values = np.frombuffer(content, dtype, offset=begins) if held else np.empty(0, dtype)
    if dtype.kind == "b" and held and values.view(np.uint8).max() > 1:
        raise _invalid_npy(where, "it holds bool values that are neither true nor false")
    return values.reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


def _measured(content: bytes, where: str) -> tuple[int, int, int]:
    if not content.startswith(_NPY_MAGIC) or len(content) < 12:
        raise _invalid_npy(where, f"it begins with {content[:8]!r}, not with {_NPY_MAGIC!r}")
    version = content[6]
    if version not in _NPY_VERSIONS:
        raise _invalid_npy(where, f"its format is {version}.{content[7]}; 1.0 and 2.0 hold plain numbers")
    length_bytes = 2 * version
    begins = 8 + length_bytes + int.from_bytes(content[8 : 8 + length_bytes], "little")
    if begins > min(len(content), _MAX_NPY_HEADER_BYTES):
        most = f"at most {_MAX_NPY_HEADER_BYTES}" if begins > _MAX_NPY_HEADER_BYTES else f"{len(content)} are there"
        raise _invalid_npy(where, f"its header claims to end after {begins} bytes; {most}")
    return length_bytes, begins, version


def _header(content: bytes, version: int, length_bytes: int, where: str) -> Header:
    """The header with its length before it; clients send the same one again and again."""
    try:
        return _parsed(content, version, length_bytes)
    except InvalidRequest as error:
        raise InvalidRequest(error.code, f"{where}: {error.message}", field="inputs") from error
    except Exception as error:  # numpy raises many kinds for a header that is not one
        raise _invalid_npy(where, f"its header cannot be read: {str(error)[:200]}") from error


@lru_cache(maxsize=256)
def _parsed(content: bytes, version: int, length_bytes: int) -> Header:
    rest = _QUOTED.sub(b"''", content[length_bytes:])
    if b"[" in rest:
        raise _wrong_dtype("a structured array", "send its fields side by side, as one array of one number type")
    if _REST.fullmatch(rest) is None:
        raise ValueError("it is not written as numpy writes it")
    shape, fortran_order, dtype = _NPY_VERSIONS[version](io.BytesIO(content), max_header_size=_MAX_NPY_HEADER_BYTES)
    if dtype.hasobject:
        message = "it holds Python objects (a pickle), which are never opened; send numbers, for example as float32"
        raise InvalidRequest("object_array", message)
    if dtype.names or dtype.subdtype or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise _wrong_dtype(f"an array of {dtype}", "numbers of at most 64 bits are needed, or true and false")
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0 or math.prod(filter(None, shape)) > _MAX_VALUES:
        raise ValueError(f"no array has the shape {shape!s:.100}")
    return tuple(map(int, shape)), bool(fortran_order), dtype


def _wrong_dtype(kind: str, advice: str) -> InvalidRequest:
    return InvalidRequest("wrong_dtype", f"it is {kind[:100]}: {advice}")


def _invalid_npy(where: str, what: str) -> InvalidRequest:
    return InvalidRequest("invalid_npy", f"{where} is no npy file: {what}", field="inputs")


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
        raise _invalid_form("its Content-Type names no boundary")
    most = types.max_rows + _MAX_FIELDS
    if body.count(b"--" + boundary.encode()) > most + 1:  # before the parser, which is slow, looks at each
        raise TooLarge(
            "too_many_rows", f"a form of more than {most} parts; at most {types.max_rows} files", field="inputs"
        )
    parts = _parts(body, boundary)
    options = merged(*(_options(part.name, part.content) for part in parts if not part.is_row))
    return [part.content for part in parts if part.is_row], options


@dataclass(slots=True)
class _Part:
    name: str = ""
    is_file: bool = False
    pieces: list[bytes] = field(default_factory=list)

    @property
    def is_row(self) -> bool:
        """True for an image; clients that send every part as a file may send the options so too."""
        return self.is_file and self.name != PART

    @property
    def content(self) -> bytes:
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
        max_header_size=_MAX_PART_HEADER_BYTES,
    )
    parser.logger = _SILENT
    try:
        parser.write(body)
    except FormParserError as error:
        raise _invalid_form(str(error)[:200]) from error
    if not listener.ended:
        raise _invalid_form("it is cut off: the last boundary is missing")
    return listener.parts


class _Listener:
    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.ended = False
        self._header, self._value = bytearray(), bytearray()

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": lambda: self.parts.append(_Part()),
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self.parts[-1].pieces.append(data[start:end]),
            "on_end": self._end,
        }

    def _end_header(self) -> None:
        name, value = bytes(self._header), bytes(self._value)
        self._header.clear()
        self._value.clear()
        if name.lower() != b"content-disposition":
            return
        kind, parameters = parse_options_header(value)
        part = self.parts[-1]
        if kind != b"form-data" or b"name" not in parameters or part.name:
            raise _invalid_form("a part's Content-Disposition is not form-data with one name")
        part.name = parameters[b"name"].decode("utf-8", "replace")
        part.is_file = b"filename" in parameters or _FILENAME.search(value) is not None

    def _end(self) -> None:
        self.ended = True


def _invalid_form(what: str) -> InvalidRequest:
    return InvalidRequest("invalid_form", f"the body cannot be read as multipart/form-data: {what}", field="inputs")


def read(
    content_type: str, query: bytes, body: bytes, profile: ServingProfile, *, max_rows: int
) -> tuple[Arrays, Options]:
    """Read a request whose body is not JSON.

    Args:
        content_type: the header, with its parameters.
        query: what stands behind the question mark, still encoded.
        profile: of the model.

    Returns:
        One array (N, *row) per input of the model, in its type, C-contiguous, aligned, perhaps read-only: rows that
        need no cast are those of the body itself. And the options that were given, as JSON values whose ranges are
        unchecked.

    Raises:
        UnsupportedFormat: `unsupported_media_type`.
        InvalidRequest: as `parse_inputs` does; `invalid_npy`, `invalid_form` for damaged bodies, `object_array` for
            pickles, `invalid_request` for options.
        TooLarge: `too_many_rows`, `too_many_pixels`.
    """
    kind, boundary = media_type(content_type)
    check_type(kind)
    options = from_query(query)
    types = InputTypes(profile, max_rows)
    if kind == _FORM:
        files, more = read_form(body, boundary, types)
        return types.images(files), merged(options, more)
    if not body:
        raise InvalidRequest("empty_inputs", f"the body is empty; {kind} is needed", field="inputs")
    return _READERS[kind](body, types), options


def check_type(kind: str) -> None:
    """Raise UnsupportedFormat for a media type, in small letters and without parameters, that nothing here reads."""
    if kind in _READERS or kind == _FORM:
        return
    reason = f"{kind[:100]!r} is not understood" if kind else "the body has no Content-Type"
    needed = f"send JSON with 'Content-Type: application/json'; accepted are {', '.join(ACCEPTED)}"
    raise UnsupportedFormat("unsupported_media_type", f"{reason}: {needed}")


def told_by_content(body: bytes) -> str | None:
    """The media type of an image or npy file from its first bytes; None for everything else.

    >>> told_by_content(b"\\x89PNG\\r\\n\\x1a\\n"), told_by_content(b"{}")
    ('image/png', None)
    """
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC.items() if body.startswith(magic)), None)


_READERS: dict[str, Callable[[bytes, InputTypes], Arrays]] = {
    "application/x-npy": read_npy,
    **dict.fromkeys(_IMAGES, lambda body, types: types.images([body])),
}
#: All media types that a predict request may have.
ACCEPTED = ("application/json", *_READERS, _FORM)
