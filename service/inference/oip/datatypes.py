"""Datatypes of the protocol: their names, numpy's types, and the form of a value of BYTES."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from service.inference.excerpts import shown
from service.registry.errors import InvalidRequest

BYTES = "BYTES"
#: The length of a value of BYTES.
PREFIX = struct.Struct("<I")


@dataclass(frozen=True)
class Datatype:
    """A type whose values have one size: how it lies in memory (little-endian), and `struct`'s letter for it."""

    name: str
    dtype: np.dtype
    code: str

    @cached_property
    def kind(self) -> str:
        """Numpy's name of the type."""
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
        found = "datatype BF16 is not read; send FP32 (or FP16), which is cast to the model's type"
    else:
        found = f"unknown datatype {shown(datatype)}; known are {', '.join([*DATATYPES, BYTES])}"
    raise InvalidRequest("unsupported_datatype", f"{of}: {found}", field="inputs")
