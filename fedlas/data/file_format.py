"""The file format of a dataset, told from its content; what could run code is refused, and nothing is unpickled."""

from __future__ import annotations

import bz2
import lzma
import pickletools
import zlib
from pathlib import Path
from typing import BinaryIO

from fedlas.data.formats.zip_archive import open_archive
from fedlas.errors import BadDataset

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
    (b"\x08", "an ONNX model", "needed are rows; were model and rows exchanged?"),
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
    """One of `FORMATS`, told from the content.

    Raises:
        BadDataset: `unsafe_format`, `unsupported_format`, `corrupt`, `empty`, `encrypted`, `too_large`, or
            `format_mismatch` where the content is not what `format` says.
    """
    found = _content(Path(path))
    if format is not None and format not in FORMATS:
        raise BadDataset("unsupported_format", f"'{format}' is no format that is read here: {SUPPORTED}")
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
        if start.startswith(b"PARE"):
            raise BadDataset("encrypted", "the parquet file is encrypted; send it without")
        if start.startswith(b"\x89HDF\r\n"):
            raise BadDataset("unsafe_format", _unsafe("an HDF5 file"))
        if _is_pickle(start, file) or _is_compressed_pickle(start):
            raise BadDataset("unsafe_format", _unsafe("a pickle (or joblib) file"))
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


def _unsafe(what: str) -> str:
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
        raise BadDataset("unsafe_format", _unsafe("a zip archive with a pickle (perhaps from torch.save)"))
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
            raise BadDataset("corrupt", f"the text {_NOT_UTF8}") from error
    return True
