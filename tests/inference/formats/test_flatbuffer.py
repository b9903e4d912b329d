"""Tables of flatbuffers are read as the format's own library writes and reads them, and never beyond their end."""

from __future__ import annotations

import struct
from typing import Any

import flatbuffers
import pytest

from service.inference.formats.flatbuffer import INT16, INT64, UINT8, Table


def table(builder: Any, **slots: Any) -> int:
    """A table with a number, a text or a vector in some of its six slots."""
    builder.StartObject(6)
    for name, value in slots.items():
        slot = int(name[1:])
        if name[0] == "o":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            {"b": builder.PrependUint8Slot, "h": builder.PrependInt16Slot, "q": builder.PrependInt64Slot}[name[0]](
                slot, value, 0
            )
    return int(builder.EndObject())


def vector(builder: Any, offsets: list[int]) -> int:
    """A vector of tables."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def written() -> bytes:
    """A table with everything that Arrow's descriptions are made of."""
    builder = flatbuffers.Builder(64)
    text = builder.CreateString("grüße")
    builder.StartVector(16, 2, 8)
    for number in (-4, 3, 2, 1 << 62):
        builder.PrependInt64(number)
    pairs = builder.EndVector()
    children = vector(builder, [table(builder, o0=text, b1=7), table(builder, h2=-300)])
    builder.Finish(table(builder, b0=200, q1=-(1 << 40), o2=text, o3=pairs, o4=children))
    return bytes(builder.Output())


def all_of(content: bytes | memoryview) -> list[object]:
    """Everything in it."""
    root = Table.root(content)
    first, second = root.tables(4)
    numbers = (root.number(0, UINT8), root.number(1, INT64), first.number(1, UINT8), second.number(2, INT16))
    child = root.table(4)
    assert child is not None
    return [*numbers, root.text(2), root.structs(3, "qq"), first.text(0), second.text(0), root.has(0), root.has(5)]


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_what_the_library_writes(kind: Any) -> None:
    """Numbers, texts, structs and tables are read; what is absent is 0, empty or false."""
    expected = [200, -(1 << 40), 7, -300, "grüße".encode(), (1 << 62, 2, 3, -4), "grüße".encode(), b"", True, False]
    assert all_of(kind(written())) == expected
    root = Table.root(written())
    assert root.table(5) is None
    assert (root.number(5, INT64), root.tables(5), root.structs(5, "qq"), root.number(9, INT64)) == (0, [], (), 0)


def outcome(content: bytes) -> str:
    """Whether the whole of it could be read."""
    try:
        root = Table.root(content)
        for place in (root, *root.tables(4)):
            for slot in range(6):
                place.has(slot), place.text(slot), place.number(slot, INT64), place.structs(slot, "qq")
                place.table(slot), place.tables(slot)
    except struct.error:
        return "refused"
    return "read"


def test_offsets_that_lead_out() -> None:
    """With any number replaced by one that leads far away, or the end cut off, there is one kind of error or none."""
    content = written()
    found = {outcome(content[:size]) for size in range(len(content))}
    for place in range(0, len(content) - 4, 2):
        for number in (0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, len(content)):
            found.add(outcome(content[:place] + struct.pack("<I", number) + content[place + 4 :]))
    assert "refused" in found
    assert found <= {"refused", "read"}
