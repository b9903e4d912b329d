"""Tensors of the protocol: values from JSON or bytes become an array of exactly the announced datatype and shape.

Nothing is allocated for a size that is only claimed: values are counted before they are read.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import NoReturn

import numpy as np

from service.predict.formats.json_inputs import first_unsound, holds, plain_array, shown
from service.registry.errors import InvalidRequest, TooLarge

BYTES = "BYTES"
#: The length of a value of BYTES.
PREFIX = struct.Struct("<I")
Shape = tuple[int, ...]
#: More than any model takes, fewer than numpy can hold.
_MAX_DIMENSIONS = 32
#: Values of BYTES, which are read one by one: more than the rows of any request, few enough to take no time.
_MAX_CONTENTS = 1 << 16


@dataclass(frozen=True)
class Datatype:
    """A type whose values have one size: how it lies in memory (little-endian), and `struct`'s letter for it."""

    name: str
    dtype: np.dtype
    code: str

    @cached_property
    def kind(self) -> str:
        return self.dtype.name


_ALL = (
    Datatype("BOOL", np.dtype("?"), "?"),
    Datatype("INT8", np.dtype("i1"), "b"),
    Datatype("INT16", np.dtype("<i2"), "h"),
    Datatype("INT32", np.dtype("<i4"), "i"),
    Datatype("INT64", np.dtype("<i8"), "q"),
    Datatype("UINT8", np.dtype("u1"), "B"),
    Datatype("UINT16", np.dtype("<u2"), "H"),
    Datatype("UINT32", np.dtype("<u4"), "I"),
    Datatype("UINT64", np.dtype("<u8"), "Q"),
    Datatype("FP16", np.dtype("<f2"), "e"),
    Datatype("FP32", np.dtype("<f4"), "f"),
    Datatype("FP64", np.dtype("<f8"), "d"),
)
DATATYPES: Mapping[str, Datatype] = {datatype.name: datatype for datatype in _ALL}
_NAMES: Mapping[np.dtype, str] = {datatype.dtype: datatype.name for datatype in _ALL}


def datatype_name(dtype: np.dtype | str) -> str:
    """The protocol's name of a numpy type; texts and bytes (dtype object) are BYTES."""
    return _NAMES.get(np.dtype(dtype), BYTES)


def prefixed(content: bytes) -> bytes:
    """A value of BYTES in a binary tensor: its length before it."""
    return PREFIX.pack(len(content)) + content


def numbers_of(datatype: object, *, of: str) -> Datatype | None:
    """The type with this name, None for BYTES; `of` names the tensor in the error for all others."""
    known = DATATYPES.get(datatype) if isinstance(datatype, str) else None
    if known is not None or datatype == BYTES:
        return known
    if datatype == "BF16":
        reason = "datatype BF16 is not read; send FP32 (or FP16), which is cast to the model's type"
    else:
        reason = f"unknown datatype {shown(datatype)}; known are {', '.join([*DATATYPES, BYTES])}"
    raise InvalidRequest("unsupported_datatype", f"{of}: {reason}", field="inputs")


def checked_shape(value: object, *, of: str) -> Shape:
    """Sizes that may be announced; `of` names the tensor in errors."""
    if isinstance(value, list) and len(value) > _MAX_DIMENSIONS:
        _fail("wrong_shape", f'{of}: "shape" has {len(value)} dimensions; at most {_MAX_DIMENSIONS}')
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        _fail(
            "wrong_shape", f'{of}: "shape" must be a list of whole numbers that are not negative, found {shown(value)}'
        )
    return tuple(value)


def from_json(data: object, datatype: Datatype | None, shape: Shape, *, of: str, booleans: bool = True) -> np.ndarray:
    """Values in nested lists or one flat list in row-major order; `datatype` None is BYTES, given as texts.

    `booleans` tells whether true or false can be among them, which takes time to find out.

    Returns an array of `shape`; BYTES as objects, each the UTF-8 of a text.
    Raises InvalidRequest: `wrong_shape`, `wrong_dtype`; TooLarge for more BYTES than rows can be.
    """
    if datatype is not None and type(data) is list and data and not (booleans and holds(data, bool)):
        nested = type(data[0]) is list
        array = plain_array(data, shape[1:] if nested else (), datatype.kind)
        if array is not None and array.size == math.prod(shape) and (not nested or len(data) == shape[0]):
            return _shaped(array, shape, of)  # nearly always
    values, nesting = _flattened(data, of)
    if len(values) != math.prod(shape):
        _fail("wrong_shape", f"{of}: shape {list(shape)} needs {math.prod(shape)} values, data holds {len(values)}")
    if not _row_major(nesting, shape):
        _fail("wrong_shape", f"{of}: data is nested as {shown(nesting)}, shape is {list(shape)}")
    return _shaped(_texts(values, of) if datatype is None else _numbers(values, datatype, of), shape, of)


def _flattened(data: object, of: str) -> tuple[Sequence[object], list[int]]:
    if not isinstance(data, list):
        _fail("wrong_shape", f'{of}: "data" must be a list, found {shown(data)}')
    nesting = [len(data)]
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list}:
            _fail("wrong_shape", f"{of}: data mixes lists and values at depth {len(nesting)}")
        sizes = set(map(len, data))
        if len(sizes) > 1:
            lengths = f"lists of {min(sizes)} and of {max(sizes)} beside each other at depth {len(nesting)}"
            _fail("wrong_shape", f"{of}: data is ragged: {lengths}")
        nesting.append(sizes.pop())
        data = list(chain.from_iterable(data))
    return data, nesting


def _row_major(nesting: Sequence[int], shape: Shape) -> bool:
    """True where the lists hold the values in the order of `shape`: alike, flat, or with dimensions taken together."""
    if len(nesting) == 1 or tuple(nesting) == shape:
        return True
    given, needed = (set(accumulate(reversed(sizes), operator.mul)) for sizes in (nesting, shape))
    return given <= needed


def _numbers(values: Sequence[object], datatype: Datatype, of: str) -> np.ndarray:
    """(count,) of the type; `struct` refuses what is no such number, and is three times as quick as numpy here."""
    booleans = datatype.code == "?"
    if booleans and not set(map(type, values)) <= {bool}:
        _explain(values, datatype, of)
    if not booleans and bool in (kinds := list(map(type, values))):
        reason = f"data holds true/false values, the first as value {kinds.index(bool)}"
        _fail("wrong_dtype", f"{of}: datatype is {datatype.name}, {reason}")
    try:
        packed = struct.pack(f"<{len(values)}{datatype.code}", *values)
    except (struct.error, OverflowError):
        _explain(values, datatype, of)
    return np.frombuffer(packed, dtype=datatype.dtype)


def _explain(values: Sequence[object], datatype: Datatype, of: str) -> NoReturn:
    number = first_unsound(values, lambda some: _fits(some, datatype))
    misfit = shown(values[number])
    _fail("wrong_dtype", f"{of}: datatype is {datatype.name}, value {number} of data is not: found {misfit}")


def _fits(values: Sequence[object], datatype: Datatype) -> bool:
    try:
        struct.pack(f"<{len(values)}{datatype.code}", *values)
    except (struct.error, OverflowError):
        return False
    return datatype.code != "?" or set(map(type, values)) <= {bool}


def _texts(values: Sequence[object], of: str) -> np.ndarray:
    _check_contents(len(values), of)
    contents = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):
        if not isinstance(value, str):
            _fail("wrong_dtype", f"{of}: datatype is BYTES, value {number} of data is no text: found {shown(value)}")
        contents[number] = value.encode()
    return contents


def from_binary(raw: memoryview, datatype: Datatype | None, shape: Shape, *, of: str) -> np.ndarray:
    """Values as they lie in memory, row-major and little-endian; BYTES have their length before them (uint32).

    Returns an array of `shape`, a read-only view of `raw` wherever the values begin at a multiple of their size. Where
    they do not, they are copied once: reading them in place takes numpy as long, and ONNX Runtime counts on it.
    Raises InvalidRequest: `wrong_size`, `wrong_dtype`; TooLarge for more BYTES than rows can be.
    """
    if datatype is None:
        return _shaped(_prefixed(raw, math.prod(shape), of), shape, of)
    needed = math.prod(shape) * datatype.dtype.itemsize
    if len(raw) != needed:
        sizes = f"shape {list(shape)} of {datatype.name} needs {needed} bytes, binary_data_size is {len(raw)}"
        _fail("wrong_size", f"{of}: {sizes}")
    array = np.frombuffer(raw, dtype=datatype.dtype)
    if not array.flags.aligned:
        array = array.copy()
    if datatype.code == "?" and needed and array.view(np.uint8).max() > 1:
        _fail("wrong_dtype", f"{of}: a BOOL is one byte, 0 or 1; found {array.view(np.uint8).max()}")
    return _shaped(array, shape, of)


def _check_contents(count: int, of: str) -> None:
    if count > _MAX_CONTENTS:
        raise TooLarge("too_many_rows", f"{of}: {count} values of BYTES; at most {_MAX_CONTENTS}", field="inputs")


def _prefixed(raw: memoryview, count: int, of: str) -> np.ndarray:
    if count * PREFIX.size > len(raw):
        sizes = f"{count} values of BYTES need {count * PREFIX.size} bytes and more, binary_data_size is {len(raw)}"
        _fail("wrong_size", f"{of}: {sizes}")
    _check_contents(count, of)
    contents = np.empty(count, dtype=object)
    start = 0
    for number in range(count):
        begin = start + PREFIX.size
        start = begin + PREFIX.unpack_from(raw, start)[0] if begin <= len(raw) else begin
        if start > len(raw):
            _fail("wrong_size", f"{of}: value {number} of {count} ends behind the last of {len(raw)} bytes")
        contents[number] = bytes(raw[begin:start])
    if start < len(raw):
        _fail("wrong_size", f"{of}: {len(raw) - start} bytes are left after {count} values of BYTES")
    return contents


def _shaped(values: np.ndarray, shape: Shape, of: str) -> np.ndarray:
    try:
        return values.reshape(shape)
    except ValueError as error:  # sizes beyond the address space, beside a zero
        _fail("wrong_shape", f"{of}: shape {list(shape)} is impossible: {error}")


def packed(array: np.ndarray) -> bytes | memoryview:
    """The bytes of an output, as `from_binary` reads them; objects are texts, or bytes with their length."""
    if array.dtype != object:
        return array.ravel().view(np.uint8).data
    values = array.ravel().tolist()
    if values and type(values[0]) is bytes:
        return b"".join(values)
    contents = {text: prefixed(text.encode()) for text in set(values)}
    return b"".join([contents[text] for text in values])


def _fail(code: str, message: str) -> NoReturn:
    raise InvalidRequest(code, message, field="inputs")
