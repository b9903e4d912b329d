"""The file format of a dataset, known from its content; what could run code is refused, and nothing is unpickled.

Zip archives of unknown origin: totals are checked before names, names before bytes. Nothing is ever extracted to a
named file: members are read as bytes, and no name of theirs reaches the file system.
"""

from __future__ import annotations

import bz2
import lzma
import pickletools
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedlas.errors import BadDataset, FedLASError

FORMATS = ("npz", "csv", "parquet", "imagefolder")
SUPPORTED = (
    "supported are npz (numpy.savez), csv (UTF-8, with a header row), parquet, and a zip of images in class folders"
)

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
#: A pickle of protocol 0 or 1 that is larger is refused as bad text instead.
_MAX_WALKED_BYTES = 1 << 26
_WRITE_PARQUET = "write parquet: pandas.DataFrame.to_parquet or pyarrow.parquet.write_table"
#: How files begin that are often taken for datasets, what they are, and what to do.
_STRANGERS = (
    (b"\x08", "an ONNX model", "expected rows; were model and rows exchanged?"),
    (b"\x93NUMPY", "a single .npy array", "it has no labels; numpy.savez writes both"),
    (b"ARROW1", "an Arrow IPC (Feather) file", _WRITE_PARQUET),
    (b"FEA1", "a Feather file", _WRITE_PARQUET),
    (b"ORC", "an ORC file", _WRITE_PARQUET),
    (b"Obj\x01", "an Avro file", _WRITE_PARQUET),
    (b"SQLite format 3\0", "an SQLite database", "write the rows of a query as csv or parquet"),
    (b"MATLAB 5.0", "a MATLAB file", "scipy.io.loadmat reads it and numpy.savez writes npz"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "save the sheet as csv (UTF-8)"),
    (b"\x89PNG", "a single image", "send a zip with a folder of images for each class"),
    (b"\xff\xd8\xff", "a single image", "send a zip with a folder of images for each class"),
    (b"\x28\xb5\x2f\xfd", "a compressed (zstd) file", "send what is in it"),
    (b"\x1f\x8b", "a compressed (gzip) file", "send what is in it"),
    (b"BZh", "a compressed (bzip2) file", "send what is in it"),
    (b"\xfd7zXZ", "a compressed (xz) file", "send what is in it"),
    (b"7z\xbc\xaf", "a 7z archive", "send an ordinary zip"),
    (b"Rar!", "a rar archive", "send an ordinary zip"),
    (b"x\x01", "a compressed (zlib) file", "send what is in it"),
    (b"x\x5e", "a compressed (zlib) file", "send what is in it"),
    (b"x\x9c", "a compressed (zlib) file", "send what is in it"),
    (b"x\xda", "a compressed (zlib) file", "send what is in it"),
    (b"%PDF", "a PDF file", "send the data it shows as csv"),
    (b"<", "HTML or XML", "perhaps a page about the file was saved instead of the file"),
    (b'{"', "JSON", "pandas.read_json reads it and to_csv or to_parquet writes what is read here"),
    (b"[{", "JSON", "pandas.read_json reads it and to_csv or to_parquet writes what is read here"),
    (b"[[", "JSON", "numpy.savez writes arrays of numbers"),
)
_NOT_UTF8 = "is not UTF-8, perhaps it is Latin-1 (Windows-1252); save the csv as UTF-8"
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")


def told_format(path: str | Path, format: str | None = None) -> str:
    """One of `FORMATS`, known from the content.

    Raises:
        BadDataset: `unsafe_format`, `unsupported_format`, `corrupt`, `empty`, `encrypted`, `too_large`, or
            `format_mismatch` where the content is not what `format` says.
    """
    content_format = _content(Path(path))
    if format is not None and format not in FORMATS:
        raise BadDataset("unsupported_format", f"'{format}' is no format that is read here: {SUPPORTED}")
    if format is not None and format != content_format:
        raise BadDataset("format_mismatch", f"the file was sent as {format}, but its content is {content_format}")
    return content_format


def _content(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
        if not start:
            raise BadDataset("empty", "the file is empty")
        if start.startswith(b"PK"):
            return _zip_content(path)
        if start.startswith(b"PAR1"):
            return "parquet"
        if start.startswith(b"PARE"):
            raise BadDataset("encrypted", "the parquet file is encrypted; send it without")
        if start.startswith(b"\x89HDF\r\n"):
            raise BadDataset("unsafe_format", _never_opened("an HDF5 file"))
        if _is_pickle(start, file) or _is_compressed_pickle(start):
            raise BadDataset("unsafe_format", _never_opened("a pickle (or joblib) file"))
    _refuse_strangers(start)
    if not _is_text(start):
        raise BadDataset("unsupported_format", f"the content is neither npz nor parquet nor text: {SUPPORTED}")
    return "csv"


def _refuse_strangers(start: bytes) -> None:
    if start.startswith(_OTHER_ENCODINGS):
        raise BadDataset("corrupt", "the text is UTF-16, not UTF-8; save the csv as UTF-8")
    begin = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for word, what, advice in _STRANGERS:
        if start.startswith(word) or begin.startswith(word):
            raise BadDataset("unsupported_format", f"the content is {what}, which is not read: {advice}")
    if start[257:262] == b"ustar":
        raise BadDataset("unsupported_format", "the content is a tar archive, which is not read: send an ordinary zip")


def _never_opened(what: str) -> str:
    return (
        f"the content is {what}, which is never opened here because it can run code; "
        "save the arrays with numpy.savez('data.npz', inputs=..., labels=...)"
    )


def _zip_content(path: Path) -> str:
    with open_archive(path) as archive:
        members = archive.infolist()
    if not members:
        raise BadDataset("empty", "the zip archive is empty")
    if any(member.flag_bits & 0x1 for member in members):
        raise BadDataset("encrypted", "the zip archive is encrypted; send it without a password")
    names = [member.filename for member in members]
    if any(name.endswith((".pkl", ".pickle", ".joblib")) for name in names):
        raise BadDataset("unsafe_format", _never_opened("a zip archive with a pickle (perhaps from torch.save)"))
    if all(name.endswith(".npy") for name in names):
        return "npz"
    if "[Content_Types].xml" in names:
        raise BadDataset("unsupported_format", "the content is an Excel file, which is not read: save the sheet as csv")
    if any(name.lower().endswith(_IMAGES) for name in names):
        return "imagefolder"
    stranger = next(name for name in names if not name.endswith(".npy"))
    if len(names) == 1 and stranger.endswith((".csv", ".parquet")):
        raise BadDataset("unsupported_format", f"the zip archive holds {stranger!r}: send that file itself")
    raise BadDataset("unsupported_format", f"the zip archive holds {stranger!r}: {SUPPORTED}")


def _is_pickle(start: bytes, file: BinaryIO) -> bool:
    """Protocols 2 to 5 have a magic byte; 0 and 1 look like text: their opcodes are walked, not run."""
    if start[0] == 0x80 and len(start) > 1 and start[1] <= 5:
        return True
    file.seek(-1, 2)
    if start[0] not in b"(cIFLSVN]}" or file.read(1) != b"." or file.tell() > _MAX_WALKED_BYTES:
        return False
    file.seek(0)
    try:
        for _ in pickletools.genops(file):
            pass
    except Exception:  # whatever a text does to the disassembler, it is no pickle then
        return False
    return file.read(1) == b""


def _is_compressed_pickle(start: bytes) -> bool:
    """Joblib compresses whole pickles: the first bytes are decompressed and looked at."""
    for reader in (zlib.decompressobj(47), bz2.BZ2Decompressor(), lzma.LZMADecompressor()):
        try:
            opened = reader.decompress(start, 16)
        except (zlib.error, OSError, lzma.LZMAError, EOFError):
            continue
        if len(opened) > 1 and opened[0] == 0x80 and opened[1] <= 5:
            return True
    return False


def _is_text(start: bytes) -> bool:
    """True where the sample is text; BadDataset `corrupt` where it is, but in another encoding than UTF-8."""
    if any(byte < 9 for byte in start):
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3 or len(start) < 4096:  # else a character was cut by the sample's end
            raise BadDataset("corrupt", f"the text {_NOT_UTF8}") from error
    return True


MAX_MEMBERS = 500_000
#: The list of names is held in memory at about twelve times its size in the file.
MAX_DIRECTORY_BYTES = 48 << 20
MAX_MEMBER_BYTES = 256 << 20
#: Files that are worth zipping shrink to a twentieth; a bomb to a thousandth and less.
MAX_RATIO = 100
FREE_BYTES = 64 << 20
MAX_NAME = 1024

_END = b"PK\x05\x06"
_END_BYTES = 22
_ZIP64_LOCATOR_BYTES = 20
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
    except FedLASError:  # a ValueError too
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
