"""Tells a dataset file's format from its content, and refuses what could run code; nothing is unpickled."""

from __future__ import annotations

import bz2
import lzma
import pickletools
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from fedlas.errors import BadDataset

SUPPORTED = "supported are npz (numpy.savez) and csv (UTF-8, with a header row)"

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")


def told_format(path: str | Path, format: str | None) -> str:
    """`npz` or `csv`, told from the content.

    Raises:
        BadDataset: `unsafe_format`, `unsupported_format`, `corrupt`, `empty`, or `format_mismatch` where the
            content is not what `format` says.
    """
    found = _content(Path(path))
    if found in ("parquet", "imagefolder") or (format is not None and format not in ("npz", "csv")):
        raise BadDataset("unsupported_format", f"'{format or found}' is not read yet: {SUPPORTED}")
    if format is not None and format != found:
        raise BadDataset("format_mismatch", f"the file was sent as {format}, but its content is {found}")
    return found


def _content(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
        if not start:
            raise BadDataset("empty", "the file is empty")
        if start.startswith(b"PK"):
            return _zip_content(path)
        if start.startswith(b"PAR1"):
            return "parquet"
        if start.startswith(b"\x89HDF\r\n"):
            raise BadDataset("unsafe_format", _unsafe("an HDF5 file"))
        if _is_pickle(start, file) or _is_compressed_pickle(start):
            raise BadDataset("unsafe_format", _unsafe("a pickle (or joblib) file"))
    if start.startswith(b"\x93NUMPY"):
        raise BadDataset("unsupported_format", "a single .npy array has no labels; numpy.savez writes both")
    if start.startswith(_ARCHIVES):
        raise BadDataset("unsupported_format", f"a compressed file is not read: {SUPPORTED}")
    if not _is_text(start):
        raise BadDataset("unsupported_format", f"the content is neither npz nor text: {SUPPORTED}")
    return "csv"


def _unsafe(what: str) -> str:
    return (
        f"the content is {what}, which is never opened here because it can run code; "
        "save the arrays with numpy.savez('data.npz', inputs=..., labels=...)"
    )


def _zip_content(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadDataset("corrupt", f"the zip archive cannot be opened: {error}") from error
    names = [member.filename for member in members]
    if not names:
        raise BadDataset("empty", "the zip archive is empty")
    if any(name.endswith((".pkl", ".pickle", ".joblib")) for name in names):
        raise BadDataset("unsafe_format", _unsafe("a zip archive with a pickle (perhaps from torch.save)"))
    if any(member.flag_bits & 0x1 for member in members):
        raise BadDataset("encrypted", "the zip archive is encrypted; send it without a password")
    if all(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.lower().endswith(_IMAGES) for name in names):
        return "imagefolder"
    stranger = next(name for name in names if not name.endswith(".npy"))
    raise BadDataset("unsupported_format", f"the zip archive holds {stranger!r}: {SUPPORTED}")


def _is_pickle(start: bytes, file: BinaryIO) -> bool:
    """Protocols 2 to 5 have a magic byte; 0 and 1 look like text: their opcodes are walked, not run."""
    if start[0] == 0x80 and len(start) > 1 and start[1] <= 5:
        return True
    file.seek(-1, 2)
    if start[0] not in b"(cIFLSVN]}" or file.read(1) != b".":
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
    readers = (zlib.decompressobj(47), bz2.BZ2Decompressor(), lzma.LZMADecompressor())
    for reader in readers:
        try:
            opened = reader.decompress(start, 16)
        except (zlib.error, OSError, lzma.LZMAError, EOFError):
            continue
        if len(opened) > 1 and opened[0] == 0x80 and opened[1] <= 5:
            return True
    return False


def _is_text(start: bytes) -> bool:
    """Whether the sample is text; BadDataset `corrupt` where it is, but in another encoding than UTF-8."""
    if any(byte < 9 for byte in start):
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3 or len(start) < 4096:  # else a character was cut by the sample's end
            raise BadDataset("corrupt", "the text is not UTF-8; save the csv as UTF-8") from error
    return True
