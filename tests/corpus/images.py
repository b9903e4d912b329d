"""Broken and hostile zips of images, and images inside good zips; large ones are made of repeated blocks in no time."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.corpus.case import BadFile

Make = Callable[[], bytes]
_BLOCK = 1 << 20
GOOD_PER_CLASS = 60


@dataclass(frozen=True)
class Entry:
    """One member of a zip as it is written down, true or not; None means the truth."""

    name: bytes
    content: bytes = b""
    method: int = 0
    stored: bytes | None = None
    claimed_size: int | None = None
    crc: int | None = None
    flags: int = 0
    attributes: int = 0
    extra: bytes = b""


def zip_of(entries: Sequence[Entry], *, claimed_count: int | None = None) -> bytes:
    """A zip file written by hand, so that it can lie."""
    body, directory = bytearray(), bytearray()
    for entry in entries:
        stored = entry.content if entry.stored is None else entry.stored
        size = len(entry.content) if entry.claimed_size is None else entry.claimed_size
        crc = zlib.crc32(entry.content) if entry.crc is None else entry.crc
        lengths = (entry.flags, entry.method, 0, 0x21, crc, len(stored), size, len(entry.name), len(entry.extra))
        head = struct.pack("<HHHHHIIIHH", 20, *lengths)
        directory += b"PK\x01\x02\x14\x03" + head + struct.pack("<HHHII", 0, 0, 0, entry.attributes, len(body))
        directory += entry.name + entry.extra
        body += b"PK\x03\x04" + head + entry.name + entry.extra + stored
    count = min(0xFFFF, len(entries) if claimed_count is None else claimed_count)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + end)


def deflated_zeros(size: int) -> bytes:
    """Raw deflate of `size` (a multiple of 1 MiB) zeros: one block, repeated."""
    assert size % _BLOCK == 0
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size // _BLOCK) + b"\x03\x00"


def image(pixels: np.ndarray, format: str = "PNG", *, mode: str | None = None, **options: object) -> bytes:
    """A file of these pixels."""
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(buffer, format, **options)
    return buffer.getvalue()


def photo(width: int = 24, height: int = 16, *, seed: int = 0) -> np.ndarray:
    """Smooth colours (height, width, 3) uint8, no two corners alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def blank_png(side: int) -> bytes:
    """A complete greyscale PNG of side x side black pixels: `side` rows of `side + 1` bytes."""
    size = side * (side + 1)
    whole = -(-size // _BLOCK) * _BLOCK  # a few rows too many do no harm
    data = b"\x78\x01" + deflated_zeros(whole) + struct.pack(">I", whole % 65521 << 16 | 1)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_with(kind: bytes, content: bytes) -> bytes:
    """A good PNG with one more chunk behind its header."""
    good = image(photo())
    return good[:33] + chunk(kind, content) + good[33:]


def animated(format: str) -> bytes:
    """Two frames."""
    buffer = io.BytesIO()
    first, second = Image.fromarray(photo()), Image.fromarray(photo(seed=1))
    first.save(buffer, format, save_all=True, append_images=[second], duration=100)
    return buffer.getvalue()


def rotated_jpeg(orientation: int = 6) -> bytes:
    """A JPEG whose EXIF data says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image(photo(), "JPEG", exif=exif.tobytes(), quality=95)


def many_scans() -> bytes:
    """A progressive JPEG whose last scan is repeated 5,000 times."""
    good = image(photo(), "JPEG", progressive=True)
    last = good.rindex(b"\xff\xda")
    return good[:last] + good[last:-2] * 5000 + good[-2:]


def huge_webp() -> bytes:
    """A header that claims the largest canvas of the format, 16,383 squared, and a few bytes."""
    body = b"WEBPVP8L" + struct.pack("<I", 15) + b"\x2f" + (16382 | 16382 << 14).to_bytes(4, "little") + bytes(10)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def good_entries() -> list[Entry]:
    """Two classes of small images, enough to draw splits."""
    return [
        Entry(f"{label}/{i}.png".encode(), image(photo(8, 8, seed=GOOD_PER_CLASS * k + i)))
        for k, label in enumerate(("cat", "dog"))
        for i in range(GOOD_PER_CLASS)
    ]


def zip_with(*entries: Entry) -> bytes:
    """The good images and more."""
    return zip_of([*good_entries(), *entries])


def _one_image(name: str, make: Make, *codes: str, file: bytes = b"cat/other.png") -> BadFile:
    return _zip(name, lambda: zip_with(Entry(file, make())), *codes)


def _zip(name: str, make: Make, *codes: str) -> BadFile:
    def write(folder: Path) -> Path:
        path = folder / "images.zip"
        path.write_bytes(make())
        return path

    return BadFile(name, write, frozenset(codes), "datasets", {"purpose": "fit"})


@cache
def _checksum_of_zeros(size: int) -> int:
    crc = 0
    for _ in range(size // _BLOCK):
        crc = zlib.crc32(bytes(_BLOCK), crc)
    return crc


def _big_member(size: int, claimed: int | None = None) -> Entry:
    crc = _checksum_of_zeros(size)
    return Entry(b"cat/zeros.bmp", method=8, stored=deflated_zeros(size), claimed_size=claimed or size, crc=crc)


def _zip64_end(count: int, directory: int) -> bytes:
    """A good zip behind whose directory a zip64 record claims other totals."""
    good = zip_of(good_entries())
    place = good.rindex(b"PK\x05\x06")
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, directory, 0)
    return good[:place] + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1) + good[place:]


def _flipped_checksum() -> bytes:
    good = bytearray(image(photo()))
    good[good.index(b"IDAT") + 12] ^= 0x55
    return bytes(good)


def _deep_grey() -> bytes:
    return image(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)


def _csv(text: str) -> Entry:
    return Entry(b"metadata.csv", text.encode())


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
_HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n%%EOF\n"
_LINK, _ENCRYPTED, _LZMA = 0o120777 << 16, 0x1, 14
CASES: list[BadFile] = [
    _zip("images: good zip", lambda: zip_of(good_entries()), "ready"),
    _zip("images: 2 MB that become 2 GB", lambda: zip_with(_big_member(2 << 30)), "archive_bomb"),
    _zip(
        "images: 2 MB that claim to become 1,000 bytes", lambda: zip_with(_big_member(2 << 30, claimed=1000)), "corrupt"
    ),
    _zip(
        "images: twenty members of 200 MB",
        lambda: zip_with(
            *(
                Entry(f"cat/{i}.bmp".encode(), method=8, stored=deflated_zeros(200 << 20), claimed_size=200 << 20)
                for i in range(20)
            )
        ),
        "archive_bomb",
    ),
    _one_image("images: zip in a zip", lambda: zip_of(good_entries()), "not_an_image", file=b"cat/inner.zip"),
    _zip(
        "images: 100,000 empty entries",
        lambda: zip_of([Entry(f"cat/{i}.png".encode()) for i in range(100_000)]),
        "not_an_image",
    ),
    _zip("images: zip64 claims a million members", lambda: _zip64_end(10**6, 9000), "archive_too_large"),
    _zip("images: zip64 claims a directory of 2^60", lambda: _zip64_end(120, 1 << 60), "archive_too_large", "corrupt"),
    _zip(
        "images: zip64 claims 2^60 bytes",
        lambda: zip_with(Entry(b"cat/x.png", b"x", claimed_size=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, 1 << 60))),
        "archive_bomb",
    ),
    _one_image("images: path with ..", lambda: image(photo()), "unsafe_archive", file=b"cat/../../x.png"),
    _one_image("images: absolute path", lambda: image(photo()), "unsafe_archive", file=b"/etc/x.png"),
    _one_image("images: drive letter", lambda: image(photo()), "unsafe_archive", file=b"C:/x.png"),
    _one_image("images: backslashes", lambda: image(photo()), "unsafe_archive", file=b"cat\\x.png"),
    _one_image("images: NUL in a name", lambda: image(photo()), "unsafe_archive", file=b"cat/x.png\0.txt"),
    _one_image("images: name of 10,000", lambda: image(photo()), "unsafe_archive", file=b"c" * 9990 + b"/x.png"),
    _zip("images: symlink", lambda: zip_with(Entry(b"cat/x.png", b"/etc/passwd", attributes=_LINK)), "unsafe_archive"),
    _one_image("images: name twice", lambda: image(photo()), "unsafe_archive", file=b"cat/1.png"),
    _zip("images: encrypted", lambda: zip_with(Entry(b"cat/x.png", b"?" * 40, flags=_ENCRYPTED)), "encrypted"),
    _zip("images: lzma", lambda: zip_with(Entry(b"cat/x.png", b"?" * 40, method=_LZMA)), "unsupported_compression"),
    _zip("images: cut off", lambda: zip_of(good_entries())[:-30], "corrupt"),
    _zip("images: wrong checksum", lambda: zip_with(Entry(b"cat/x.png", image(photo()), crc=1)), "corrupt"),
    _zip("images: no folders", lambda: zip_of([Entry(b"1.png", image(photo()))]), "bad_layout"),
    _one_image("images: mixed depths", lambda: image(photo()), "bad_layout", file=b"cat/more/x.png"),
    _zip("images: metadata without file_name", lambda: zip_with(_csv("name,age\na,3\n")), "bad_metadata"),
    _zip("images: metadata of other files", lambda: zip_with(_csv("file_name,age\nx.png,3\n")), "bad_metadata"),
    *(
        _one_image(f"images: PNG of {side * side // 10**6} megapixels", lambda s=side: blank_png(s), "image_too_large")
        for side in (9000, 12000, 30000)
    ),
    _one_image("images: WebP claims 268 megapixels", huge_webp, "image_too_large"),
    _one_image("images: JPEG of 5,000 scans", many_scans, "corrupt_image"),
    _one_image("images: truncated JPEG", lambda: image(photo(200, 200), "JPEG")[:-1500], "corrupt_image"),
    _one_image("images: truncated PNG", lambda: image(photo(200, 200))[:-1500], "corrupt_image"),
    _one_image("images: PNG with a wrong checksum", _flipped_checksum, "corrupt_image"),
    _one_image(
        "images: PNG with text that inflates",
        lambda: png_with(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20))),
        "corrupt_image",
    ),
    _one_image("images: animated GIF", lambda: animated("GIF"), "unsupported_image"),
    _one_image("images: animated PNG", lambda: animated("PNG"), "animated_image"),
    _one_image("images: animated WebP", lambda: animated("WEBP"), "animated_image"),
    _one_image("images: TIFF named png", lambda: image(photo(), "TIFF"), "unsupported_image"),
    _one_image("images: SVG named png", lambda: _SVG, "not_an_image"),
    _one_image("images: HTML named png", lambda: _HTML, "not_an_image"),
    _one_image("images: PDF named png", lambda: b"%PDF-1.7\n" + bytes(99), "not_an_image"),
    _one_image("images: EPS named png", lambda: _EPS, "not_an_image"),
    _one_image("images: pickle named png", lambda: pickle.dumps({"a": 1}), "not_an_image"),
    _one_image("images: empty file", lambda: b"", "not_an_image"),
    _one_image("images: noise named jpg", lambda: b"\xff\xd8\xff" + bytes(range(256)) * 4, "corrupt_image"),
    _one_image("images: CMYK", lambda: image(photo(), "JPEG", mode="CMYK"), "ready", file=b"cat/x.jpg"),
    _one_image("images: turned by EXIF", rotated_jpeg, "ready", file=b"cat/x.jpg"),
    _one_image("images: 16-bit greyscale", _deep_grey, "ready"),
    _one_image("images: palette", lambda: image(photo(), mode="P"), "ready"),
    _one_image("images: litter", lambda: b"?", "ready", file=b"__MACOSX/cat/._1.png"),
]
