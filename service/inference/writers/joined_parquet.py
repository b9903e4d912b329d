"""Joined Parquet files: several with the same columns as the bytes of one, without a look at their values.

The row groups stand one after the other as they are, and behind them a footer that names them all. A footer is a
struct in which places are counted from the file's begin: they are moved as far as their group has moved, everything
else is copied. So any part of the joined file can be read without making what is before
it, by whoever asks for ranges. https://parquet.apache.org/docs/file-format/metadata/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.inference.writers.thrift_compact import (
    I64,
    LIST,
    STRUCT,
    Added,
    copied,
    read_field,
    read_list_head,
    read_number,
    skipped,
    unzigzag,
    varint,
    zigzag,
)

_MAGIC = b"PAR1"
_END = 8  # the footer's length and the magic word
_CHUNK = 1 << 18

#: Fields of a footer.
_NUM_ROWS, _ROW_GROUPS = 3, 4


@dataclass(frozen=True)
class _Groups:
    """The row groups of one file: where they lie, and what its footer says of them and of everything else.

    Attributes:
        size: bytes of them all.
        before: the footer's fields up to the number of rows: version and columns.
        listed: the groups themselves, in their new places.
        after: its last fields: who has written it, perhaps in another release than the other parts, and notes.
    """

    path: Path
    size: int
    before: bytes
    num_rows: int
    num_groups: int
    listed: bytes
    after: bytes


class JoinedParquet:
    """Files joined to one, which exists only where it is read.

    Attributes:
        size: its bytes.

    Raises:
        ValueError: a file is none of Parquet, or its columns are not those of the first.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        place, groups = len(_MAGIC), 0
        self._parts: list[_Groups] = []
        for path in paths:
            part = _groups(path, place=place, number=groups)
            if self._parts and part.before != self._parts[0].before:
                raise ValueError(f"{path.name} has other columns than {paths[0].name}")
            self._parts.append(part)
            place, groups = place + part.size, groups + part.num_groups
        self._end = self._footer()
        self.size = place + len(self._end)

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, in pieces."""
        begin = 0
        for source, offset, size in self._sources():
            first, last = max(start, begin), min(stop, begin + size)
            if first < last:
                yield from _read(source, offset + first - begin, last - first)
            begin += size

    def _sources(self) -> Iterator[tuple[Path | bytes, int, int]]:
        """What the file consists of: where each stretch of bytes comes from, from where on, and how many they are."""
        yield _MAGIC, 0, len(_MAGIC)
        for part in self._parts:
            yield part.path, len(_MAGIC), part.size
        yield self._end, 0, len(self._end)

    def _footer(self) -> bytes:
        first = self._parts[0]
        footer = bytearray(first.before)
        footer += bytes([1 << 4 | I64]) + varint(zigzag(sum(part.num_rows for part in self._parts)))
        footer += bytes([1 << 4 | LIST, 15 << 4 | STRUCT]) + varint(sum(part.num_groups for part in self._parts))
        for part in self._parts:
            footer += part.listed
        footer += first.after
        return bytes(footer) + len(footer).to_bytes(4, "little") + _MAGIC


def _read(source: Path | bytes, offset: int, size: int) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source[offset : offset + size]
        return
    with source.open("rb") as file:
        file.seek(offset)
        while size:
            chunk = file.read(min(size, _CHUNK))
            if not chunk:
                raise EOFError(f"{source.name} has become shorter")
            yield chunk
            size -= len(chunk)


def _groups(path: Path, *, place: int, number: int) -> _Groups:
    """The groups of a file, as they stand from `place` on in a file that has `number` groups before them."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END))
        end = file.read()
        begin = size - _END - int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC or begin < len(_MAGIC):
            raise ValueError(f"{path.name} is no Parquet file")
        file.seek(begin)
        footer = file.read(size - _END - begin)
    try:
        return _parsed(path, footer, begin - len(_MAGIC), moved=place - len(_MAGIC), number=number)
    except (IndexError, RecursionError) as error:
        raise ValueError(f"the footer of {path.name} cannot be read") from error


def _parsed(path: Path, footer: bytes, size: int, *, moved: int, number: int) -> _Groups:
    chunk: Added = {2: moved, 3: {9: moved, 10: moved, 11: moved, 14: moved}, 4: moved, 6: moved}
    group: Added = {1: chunk, 5: moved, 7: number}
    place = field = 0
    while field < _NUM_ROWS - 1:
        field, kind, place = read_field(footer, place, field)
        place = skipped(footer, place, kind)
    before = footer[:place]
    rows, kind, place = read_field(footer, place, field)
    num_rows, place = read_number(footer, place)
    groups, list_kind, place = read_field(footer, place, rows)
    if (rows, kind, groups, list_kind) != (_NUM_ROWS, I64, _ROW_GROUPS, LIST):
        raise ValueError(f"the footer of {path.name} has no row groups behind the number of its rows")
    num_groups, _, place = read_list_head(footer, place)
    listed = bytearray()
    for _ in range(num_groups):
        place = copied(footer, place, group, listed)
    return _Groups(path, size, before, unzigzag(num_rows), num_groups, bytes(listed), footer[place:])
