"""Zip archives made wrong on purpose, for tests of what must be refused."""

from __future__ import annotations


def encrypted(content: bytes) -> bytes:
    """The archive with the flag that says "encrypted" in every local and central header."""
    raw = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = raw.find(mark)
        while place >= 0:
            raw[place + offset] |= 1
            place = raw.find(mark, place + 1)
    return bytes(raw)
