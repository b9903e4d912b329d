"""Reads the tables of a flatbuffer, as Arrow describes its messages in them; it knows no schema.

The offsets are supposed to have been verified; where one leads out of the buffer all the same, struct.error is raised.
How they lie in memory: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct

Content = bytes | memoryview

UINT8, INT16, INT64 = struct.Struct("<B"), struct.Struct("<h"), struct.Struct("<q")
_UINT16, _INT32, _UINT32 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")


class Table:
    """A table: its fields are numbered slots, each of which may be absent.

    Args:
        place: where it begins in the buffer.
    """

    __slots__ = ("_content", "_directory", "_directory_bytes", "_place")

    def __init__(self, content: Content, place: int) -> None:
        self._content, self._place = content, place
        self._directory = place - _read(_INT32, content, place)
        self._directory_bytes = _read(_UINT16, content, self._directory)

    @classmethod
    def root(cls, content: Content) -> Table:
        """The outermost table."""
        return cls(content, _read(_UINT32, content, 0))

    def has(self, slot: int) -> bool:
        """Whether the field is there."""
        return self._field(slot) > 0

    def number(self, slot: int, kind: struct.Struct) -> int:
        """The number in a slot, or 0."""
        place = self._field(slot)
        return _read(kind, self._content, place) if place else 0

    def table(self, slot: int) -> Table | None:
        """The table in a slot."""
        place = self._field(slot)
        return Table(self._content, self._followed(place)) if place else None

    def text(self, slot: int) -> bytes:
        """The text in a slot, or none."""
        count, start = self._vector(slot)
        return bytes(self._content[start : start + count])

    def structs(self, slot: int, layout: str) -> tuple[int, ...]:
        """All numbers of a vector of structs of such a layout, for example `qq`, one after the other."""
        count, start = self._vector(slot)
        _check(self._content, start, count * struct.calcsize(f"<{layout}"))
        return struct.unpack_from(f"<{count * layout}", self._content, start)

    def tables(self, slot: int) -> list[Table]:
        """The tables in a vector."""
        count, start = self._vector(slot)
        _check(self._content, start, 4 * count)
        return [Table(self._content, self._followed(start + 4 * i)) for i in range(count)]

    def _field(self, slot: int) -> int:
        entry = 4 + 2 * slot
        if entry >= self._directory_bytes:
            return 0
        offset = _read(_UINT16, self._content, self._directory + entry)
        return self._place + offset if offset else 0

    def _vector(self, slot: int) -> tuple[int, int]:
        """How many entries, and where the first one begins."""
        place = self._field(slot)
        if not place:
            return 0, 0
        start = self._followed(place)
        return _read(_UINT32, self._content, start), start + 4

    def _followed(self, place: int) -> int:
        return place + _read(_UINT32, self._content, place)


def _read(kind: struct.Struct, content: Content, place: int) -> int:
    if place < 0:  # would be counted from the end
        raise struct.error("an offset leads out of the buffer")
    number: int = kind.unpack_from(content, place)[0]
    return number


def _check(content: Content, start: int, size: int) -> None:
    if start + size > len(content):
        raise struct.error("a vector leads out of the buffer")
