"""Thrift's compact protocol, as far as a struct is copied with some of its numbers changed.

Nothing needs a schema but the fields that are changed: what is between them is passed over by its kind. Whatever is no
struct of this protocol raises ValueError, IndexError or RecursionError.
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

#: Kinds of values; 0 ends a struct. None of Parquet's structs holds a map, which would be 11.
_TRUE, _FALSE, _BYTE, _I16, _I32, I64, _DOUBLE, _BINARY, LIST, _SET, STRUCT = (*range(1, 11), 12)
#: Bytes of a field's value beside its head, for kinds of one size.
_FIXED = {0: 0, _TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}
_MOST_SHIFT = 63
#: What is added to the numbers in fields of a struct, or of the structs within it.
Added: TypeAlias = "Mapping[int, int | Added]"


def copied(data: bytes, place: int, added: Added, target: bytearray) -> int:
    """Copy the struct at this place, with what is added; returns where it ends."""
    field = 0
    while True:
        begin = place
        field, kind, place = read_field(data, place, field)
        change = added.get(field)
        if kind == 0 or change is None:
            place = skipped(data, place, kind)
            target += data[begin:place]
            if kind == 0:
                return place
        elif isinstance(change, int):
            target += data[begin:place]
            number, place = read_number(data, place)
            target += varint(zigzag(_narrowed(unzigzag(number) + change, kind)))
        elif kind == LIST:
            count, _, place = read_list_head(data, place)
            target += data[begin:place]
            for _ in range(count):
                place = copied(data, place, change, target)
        else:
            target += data[begin:place]
            place = copied(data, place, change, target)


def read_field(data: bytes, place: int, before: int) -> tuple[int, int, int]:
    """The id of the next field, its kind (0 at the struct's end), and where its value begins."""
    head = data[place]
    if head >> 4 or head == 0:
        return before + (head >> 4), head & 15, place + 1
    number, place = read_number(data, place + 1)
    return unzigzag(number), head & 15, place


def read_list_head(data: bytes, place: int) -> tuple[int, int, int]:
    """How many elements a list has, of which kind, and where the first begins."""
    head = data[place]
    if head >> 4 < 15:
        return head >> 4, head & 15, place + 1
    count, place = read_number(data, place + 1)
    return count, head & 15, place


def skipped(data: bytes, place: int, kind: int) -> int:
    """Where the value of a field ends."""
    if kind in _FIXED:
        return place + _FIXED[kind]
    if kind in (_I16, _I32, I64):
        return read_number(data, place)[1]
    if kind == _BINARY:
        length, place = read_number(data, place)
        return place + length
    if kind == STRUCT:
        field = 0
        while kind:
            field, kind, place = read_field(data, place, field)
            place = skipped(data, place, kind)
        return place
    if kind in (LIST, _SET):
        count, kind, place = read_list_head(data, place)
        if kind in _FIXED:
            return place + count * max(1, _FIXED[kind])  # within a list a truth takes a byte
        for _ in range(count):
            place = skipped(data, place, kind)
        return place
    raise ValueError(f"a field has a value of kind {kind}, which none has")


def read_number(data: bytes, place: int) -> tuple[int, int]:
    """The unsigned number at this place, and where it ends."""
    number = shift = 0
    while True:
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7
        if shift > _MOST_SHIFT:
            raise ValueError("a number has more than 64 bits")


def varint(number: int) -> bytes:
    """The number as it is written."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def zigzag(number: int) -> int:
    """A signed number as an unsigned one, small where it is small."""
    return number << 1 if number >= 0 else (-number << 1) - 1


def unzigzag(number: int) -> int:
    """The signed number again."""
    return number >> 1 if number & 1 == 0 else -(number + 1 >> 1)


def _narrowed(number: int, kind: int) -> int:
    """The number as its type holds it: a group's own number has 16 bits, and may begin anew."""
    return (number + (1 << 15)) % (1 << 16) - (1 << 15) if kind == _I16 else number
