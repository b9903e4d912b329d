"""The npy reader: an array over the bytes of the body; nothing is copied, and no pickle is ever opened."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib import format as numpy_format

from service.inference.formats.input_types import InputTypes
from service.registry.errors import InvalidRequest

_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 4096
_MAX_DIMENSIONS = 32
_MAX_VALUES = 1 << 40  # more than a body can hold
#: Text in quotes holds the type; outside of it stand brackets, words and whole numbers, none of them glued together
#: (Python 2 wrote 3L), so that no header makes numpy warn or try twice.
_QUOTED = re.compile(rb"'[^'\\]*'")
_REST = re.compile(rb"(?:[\s{}()\[\]:,-]|\b(?:True|False)\b|\b[0-9]+\b|'')*")
_READERS = {1: numpy_format.read_array_header_1_0, 2: numpy_format.read_array_header_2_0}


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a npy file: dtype, order and shape of the numbers that follow it."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


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
    header = _header(content[8:begins], version, length_bytes, where)
    claimed, held = math.prod(header.shape) * header.dtype.itemsize, len(content) - begins
    if claimed != held:
        kind = f"shape {list(header.shape)} of {header.dtype} ({claimed} bytes)"
        raise _invalid(where, f"its header claims {kind}, but {held} bytes follow")
    order = "F" if header.fortran_order else "C"
    found = np.frombuffer(content, header.dtype, offset=begins) if held else np.empty(0, header.dtype)
    if header.dtype.kind == "b" and held and found.view(np.uint8).max() > 1:
        raise _invalid(where, "it holds bool values that are neither true nor false")
    return found.reshape(header.shape, order=order)  # type: ignore[call-overload, no-any-return]


def _measured(content: bytes, where: str) -> tuple[int, int, int]:
    """How many bytes tell the header's length, where the numbers begin, and the format's version."""
    if not content.startswith(_MAGIC) or len(content) < 12:
        raise _invalid(where, f"it begins with {content[:8]!r}, not with {_MAGIC!r}")
    version = content[6]
    if version not in _READERS:
        raise _invalid(where, f"its format is {version}.{content[7]}; 1.0 and 2.0 hold plain numbers")
    length_bytes = 2 * version
    begins = 8 + length_bytes + int.from_bytes(content[8 : 8 + length_bytes], "little")
    if begins > min(len(content), _MAX_HEADER_BYTES):
        most = f"at most {_MAX_HEADER_BYTES}" if begins > _MAX_HEADER_BYTES else f"{len(content)} are there"
        raise _invalid(where, f"its header claims to end after {begins} bytes; {most}")
    return length_bytes, begins, version


def _header(content: bytes, version: int, length_bytes: int, where: str) -> Header:
    """The header with its length before it; clients send the same one again and again."""
    try:
        return _parsed(content, version, length_bytes)
    except InvalidRequest as error:
        raise InvalidRequest(error.code, f"{where}: {error.message}", field="inputs") from error
    except Exception as error:  # numpy raises many kinds for a header that is not one
        raise _invalid(where, f"its header cannot be read: {str(error)[:200]}") from error


@lru_cache(maxsize=256)
def _parsed(content: bytes, version: int, length_bytes: int) -> Header:
    rest = _QUOTED.sub(b"''", content[length_bytes:])
    if b"[" in rest:
        raise _wrong_dtype("a structured array", "send its fields side by side, as one array of one number type")
    if _REST.fullmatch(rest) is None:
        raise ValueError("it is not written as numpy writes it")
    shape, fortran_order, dtype = _READERS[version](io.BytesIO(content), max_header_size=_MAX_HEADER_BYTES)
    if dtype.hasobject:
        message = "it holds Python objects (a pickle), which are never opened; send numbers, for example as float32"
        raise InvalidRequest("object_array", message)
    if dtype.names or dtype.subdtype or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise _wrong_dtype(f"an array of {dtype}", "numbers of at most 64 bits are needed, or true and false")
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0 or math.prod(filter(None, shape)) > _MAX_VALUES:
        raise ValueError(f"no array has the shape {shape!s:.100}")
    return Header(tuple(map(int, shape)), bool(fortran_order), dtype)


def _wrong_dtype(found: str, advice: str) -> InvalidRequest:
    return InvalidRequest("wrong_dtype", f"it is {found[:100]}: {advice}")


def _invalid(where: str, what: str) -> InvalidRequest:
    return InvalidRequest("invalid_npy", f"{where} is no npy file: {what}", field="inputs")
