"""Bytes that are described and not held: a gigabyte of brackets is a unit and a count until it is sent."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

_CHUNK_BYTES = 64 * 1024
_NUMBER = b"%08x"
_SHOWN = 60


@dataclass(frozen=True)
class Piece:
    """`count` times `unit`; where the unit holds `%08x`, the number of the copy stands there.

    Attributes:
        made_of: what the unit was before it was compressed, for people.
    """

    unit: bytes
    count: int = 1
    made_of: str = ""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * (len(self.unit) - (len(_NUMBER) - 8) * self.unit.count(_NUMBER))

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a few at a time."""
        unit = self.unit
        if _NUMBER not in unit:
            together = max(1, _CHUNK_BYTES // max(1, len(unit)))
            whole, rest = divmod(self.count, together)
            block = unit * together if whole else b""
            for _ in range(whole):
                yield block
            if rest:
                yield unit * rest
            return
        numbers = iter(range(self.count))
        together = max(1, _CHUNK_BYTES // len(unit))
        while numbered := [unit.replace(_NUMBER, b"%08x" % number) for number in islice(numbers, together)]:
            yield b"".join(numbered)

    def __str__(self) -> str:
        shown = self.made_of or repr(self.unit[:_SHOWN])[1:] + ("…" if len(self.unit) > _SHOWN else "")
        if len(self.unit) > _SHOWN and not self.made_of:
            shown += f" ({len(self.unit):,} bytes)"
        return shown if self.count == 1 else f"{self.count:,} × {shown}"


@dataclass(frozen=True)
class Content:
    """Pieces, one after the other."""

    pieces: tuple[Piece, ...] = ()

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(piece.size for piece in self.pieces)

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a few at a time."""
        for piece in self.pieces:
            yield from piece.chunks()

    def __add__(self, other: Content | bytes) -> Content:
        return Content(self.pieces + (other if isinstance(other, Content) else text(other)).pieces)

    def __radd__(self, other: bytes) -> Content:
        return text(other) + self

    def __str__(self) -> str:
        return " + ".join(str(piece) for piece in self.pieces if piece.size)


NOTHING = Content()


def text(content: bytes | str) -> Content:
    """Just these bytes."""
    return repeated(content.encode() if isinstance(content, str) else content, 1)


def repeated(unit: bytes, count: int) -> Content:
    """So many copies; `%08x` in the unit is numbered."""
    return Content((Piece(unit, count),)) if unit and count else Content()


def listed(unit: bytes, count: int) -> Content:
    """So many copies with commas between them."""
    return repeated(unit + b",", count - 1) + repeated(unit, min(1, count))


def gzipped(content: Content) -> Content:
    """The same, compressed as far as it goes; made at once, since its size must be known."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = b"".join([*map(packer.compress, content.chunks()), packer.flush()])
    return Content((Piece(packed, made_of=f"gzip({content})"),))
