"""Zip archives of unknown origin: totals are checked before names, names before bytes.

Nothing is ever extracted to a named file: members are read as bytes, and no name of theirs reaches the file system.
"""

from __future__ import annotations

import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fedlas.errors import BadDataset

MAX_MEMBERS = 500_000
#: The list of names is held in memory at about twelve times its size in the file.
MAX_DIRECTORY_BYTES = 48 << 20
MAX_MEMBER_BYTES = 256 << 20
#: Files that are worth zipping shrink to a twentieth; a bomb to a thousandth and less.
MAX_RATIO, FREE_BYTES = 100, 64 << 20
MAX_NAME = 1024

_END, _END_BYTES, _ZIP64_LOCATOR_BYTES = b"PK\x05\x06", 22, 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, struct.error)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextmanager
def open_archive(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """The archive, once its directory is known to be small enough to be read; its members are still unchecked.

    Raises:
        BadDataset: `archive_too_large` (too many members), or `corrupt`, also for what goes wrong inside the block.
    """
    try:
        _check_directory(Path(path))
        with zipfile.ZipFile(path) as archive:
            if len(archive.filelist) > MAX_MEMBERS:
                raise _too_many(len(archive.filelist))
            yield archive
    except BadDataset:  # a ValueError too
        raise
    except _DAMAGED as error:
        raise BadDataset("corrupt", f"the zip archive is damaged: {error or type(error).__name__}") from error


def check_members(
    members: Sequence[zipfile.ZipInfo],
    *,
    archive_bytes: int,
    max_member_bytes: int = MAX_MEMBER_BYTES,
    max_ratio: int = MAX_RATIO,
    free_bytes: int = FREE_BYTES,
) -> None:
    """Judge names and declared sizes before any member is opened.

    Raises:
        BadDataset: `unsafe_archive` (a path that leaves the archive, a link, a name twice), `encrypted`,
            `unsupported_compression`, `archive_bomb`.
    """
    seen: set[str] = set()
    for member in members:
        _check_name(member)
        if member.filename in seen:
            raise _unsafe(f"{_shown(member)} appears twice")
        seen.add(member.filename)
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe(f"{_shown(member)} is a link or device; only files are read")
        if member.flag_bits & 0x1:
            raise BadDataset("encrypted", f"{_shown(member)} is encrypted; send the archive without a password")
        if member.compress_type not in _METHODS:
            raise BadDataset("unsupported_compression", f"{_shown(member)} is neither stored nor deflated")
        if member.file_size > max_member_bytes:
            raise _bomb(f"{_shown(member)} claims {member.file_size:,} bytes; at most {max_member_bytes:,} are read")
    total, allowed = sum(member.file_size for member in members), max_ratio * archive_bytes + free_bytes
    if total > allowed:
        raise _bomb(f"its {archive_bytes:,} bytes claim to become {total:,}; at most {allowed:,} are read")


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of one member: exactly as many as it claims, whose checksum fits; BadDataset `corrupt`."""
    try:
        with archive.open(member) as file:  # stops at the claimed size, whatever the compressed bytes would become
            content = file.read(member.file_size)
            file.read(1)  # compares the checksum
    except _DAMAGED as error:
        raise BadDataset("corrupt", f"{_shown(member)} is damaged: {error or type(error).__name__}") from error
    if len(content) != member.file_size:
        raise BadDataset("corrupt", f"{_shown(member)} claims {member.file_size} bytes, but has {len(content)}")
    return content


def text_name(member: zipfile.ZipInfo) -> str:
    """The name as it was meant: some systems write UTF-8 without saying so, and letters apart from their accents."""
    name = member.filename
    if not member.flag_bits & 0x800:  # else `zipfile` takes it for the letters of 1981
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return unicodedata.normalize("NFC", name)


def _check_directory(path: Path) -> None:
    """Read the end record alone: `zipfile` would turn all names into objects before they can be counted."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 65_536 - _END_BYTES - _ZIP64_LOCATOR_BYTES))
        tail = file.read()
        place = tail.rfind(_END)
        if place < 0 or len(tail) < place + _END_BYTES:
            raise BadDataset("corrupt", "the zip archive has no end; it was probably cut off")
        count, directory = struct.unpack_from("<HI", tail, place + 10)
        locator = tail[max(0, place - _ZIP64_LOCATOR_BYTES) : place]
        if locator.startswith(b"PK\x06\x07"):
            file.seek(struct.unpack_from("<Q", locator, 8)[0])
            record = file.read(56)
            if not record.startswith(b"PK\x06\x06") or len(record) < 56:
                raise BadDataset("corrupt", "the zip64 end record of the archive is not where it should be")
            count, directory = struct.unpack_from("<QQ", record, 32)
    if count > MAX_MEMBERS:
        raise _too_many(count)
    if directory > MAX_DIRECTORY_BYTES:
        raise BadDataset("archive_too_large", f"the zip archive's list of names takes {directory:,} bytes")


def _check_name(member: zipfile.ZipInfo) -> None:
    name = member.orig_filename  # `filename` is cut at NUL bytes, and on Windows has its backslashes turned
    if len(name) > MAX_NAME:
        raise _unsafe(f"{_shown(member)} has a name of {len(name)} characters; at most {MAX_NAME}")
    if "\\" in name or any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name):
        raise _unsafe(f"{_shown(member)} has a backslash or control character in its name")
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or parts[0][1:2] == ":" or any(part in ("", ".", "..") for part in parts):
        raise _unsafe(f"{_shown(member)} is no path inside the archive")


def _shown(member: zipfile.ZipInfo) -> str:
    return repr(member.orig_filename[:100])


def _too_many(count: int) -> BadDataset:
    return BadDataset("archive_too_large", f"the zip archive has {count:,} files; at most {MAX_MEMBERS:,} are read")


def _unsafe(what: str) -> BadDataset:
    return BadDataset("unsafe_archive", f"the zip archive is not safe: {what}")


def _bomb(what: str) -> BadDataset:
    return BadDataset("archive_bomb", f"the zip archive unpacks to too much: {what}")
