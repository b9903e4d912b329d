"""Decoding of one image file of unknown origin, upright and in the requested mode.

The content decides the format, and only the four parsers named here are ever reached: those for everything else
that Pillow reads (TIFF, EPS through Ghostscript, PDF, …) never see a byte. Sizes are read from the header and limited
before any pixel is decoded.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

#: Larger images are refused before they are decoded. A phone's 50 megapixels take up to 0.8 GB on their way (WebP).
MAX_PIXELS = 50_000_000
#: Every scan of a progressive JPEG goes over all pixels, so that a small file with thousands of them takes minutes;
#: usual files have about ten (https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf).
MAX_SCANS = 100

FORMATS = "PNG, JPEG, WebP and BMP"
_PARSERS: dict[str, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}
_OTHER_IMAGES = {b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"\0\0\0\x0cjP": "JPEG 2000"}
_OTHERS = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"PK": "zip archive",
    b"\x1f\x8b": "gzip",
    b"\x80": "pickle",
    b"\x7fELF": "program",
    b"\x00\x00\x01\x00": "icon",
}
_CUT_OFF = "the image is damaged or cut off"
_MARKUP = {b"<svg": "SVG drawing", b"<!doctype html": "HTML page", b"<html": "HTML page", b"<?xml": "XML text"}


class BadImage(ValueError):
    """A file that is no image we read: a stable `code`, a sentence, and the `row` where it is one of many."""

    def __init__(self, code: str, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.row = code, message, row


@dataclass(frozen=True)
class ImageFacts:
    """An image file's header: format, pixels as stored (before EXIF turns them), and Pillow's word for their type."""

    format: str
    width: int
    height: int
    mode: str

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def sixteen_bit(self) -> bool:
        """Greyscale with 16 bits, as radiographs have."""
        return self.mode.startswith("I")


def image_facts(content: bytes) -> ImageFacts:
    """Format, size and mode from the header alone.

    Raises:
        BadImage: `not_an_image`, `unsupported_image`, `animated_image`, `image_too_large`, `corrupt_image`.
    """
    return _opened(content)[1]


def checked_image(content: bytes) -> ImageFacts:
    """Decode the image once to see that all of it is there; raises as `decoded` does."""
    image, facts = _opened(content)
    with _parsing(_CUT_OFF):
        image.load()
    return facts


def decoded(content: bytes, *, channels: int, sixteen_bit: bool = False) -> Image.Image:
    """The image, upright, with 1 or 3 channels of 8 bits, or (`sixteen_bit`) one channel of float32 from 0 to 65535.

    The orientation in the EXIF data is applied. Colours become what Pillow's `convert` makes of them: transparency is
    dropped, palettes are looked up, CMYK becomes RGB without a profile, and grey is ITU-R 601-2 luma.

    Raises:
        BadImage: as `image_facts`, and `wrong_bit_depth` for 16-bit greyscale where 8 bits are wanted or the reverse.
    """
    image, facts = _opened(content)
    if facts.sixteen_bit != sixteen_bit:
        raise BadImage(
            "wrong_bit_depth",
            'the image is greyscale with 16 bits; the model\'s preprocessing must say "bit_depth": 16'
            if facts.sixteen_bit
            else 'the preprocessing says "bit_depth": 16, but the image is no greyscale image with 16 bits',
        )
    with _parsing(_CUT_OFF):
        image.load()
    image.info.pop("transparency", None)  # or Pillow warns that it drops it
    with suppress(Exception):  # broken EXIF data, as cameras' often is, says nothing of the orientation
        ImageOps.exif_transpose(image, in_place=True)
    if sixteen_bit:
        return Image.fromarray(np.asarray(image).astype(np.float32))
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _opened(content: bytes) -> tuple[ImageFile, ImageFacts]:
    """The parsed header, with no pixel decoded."""
    format = _told_format(content)
    _check_before_parsing(format, content)
    with _parsing(f"the {format} file is damaged"):
        image = _PARSERS[format](io.BytesIO(content))
    facts = ImageFacts(format, image.width, image.height, image.mode)
    _check_size(facts.width, facts.height)
    if getattr(image, "is_animated", False):
        raise BadImage("animated_image", f"the {format} file is animated; one picture per row is needed")
    return image, facts


@contextmanager
def _parsing(what: str) -> Iterator[None]:
    """A parser meets bytes of unknown origin: whatever it raises, the file is broken."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage("corrupt_image", f"{what}: {str(error) or type(error).__name__}") from error


def _told_format(content: bytes) -> str:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WebP"
    if content.startswith(b"BM"):
        return "BMP"
    if not content:
        raise BadImage("not_an_image", "the file is empty")
    others = {start: name for start, name in _OTHER_IMAGES.items() if content.startswith(start)}
    if content[4:8] == b"ftyp":
        others[b"ftyp"] = "HEIC or AVIF"
    if others:
        name = next(iter(others.values()))
        raise BadImage("unsupported_image", f"the content is a {name} file; {FORMATS} are read")
    raise BadImage("not_an_image", f"the content is {_guessed(content)}; {FORMATS} are read")


def _guessed(content: bytes) -> str:
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    markup = [name for mark, name in _MARKUP.items() if start.startswith(mark)]
    if markup:
        return f"an {markup[0]}" if b"<svg" not in start else "an SVG drawing"
    return next((f"a {name}" for mark, name in _OTHERS.items() if content.startswith(mark)), "no known image")


def _check_before_parsing(format: str, content: bytes) -> None:
    """Refuse what would cost a parser memory or time; raises BadImage."""
    if format == "WebP":  # its decoder allocates the whole canvas when it is made
        _check_size(*_webp_size(content))
        if content[12:16] == b"VP8X" and content[20] & 0x02:
            raise BadImage("animated_image", "the WebP file is animated; one picture per row is needed")
    if format == "JPEG" and content.count(b"\xff\xda") > MAX_SCANS:
        raise BadImage("corrupt_image", f"the JPEG file has more than {MAX_SCANS} scans; no camera writes so many")


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height in the header (RFC 9649), 0 where it is none."""
    kind = content[12:16]
    if len(content) < 30:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", content[26:30])
    return (width & 0x3FFF, height & 0x3FFF) if kind == b"VP8 " else (0, 0)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImage("corrupt_image", "the image has no pixels")
    if width * height > MAX_PIXELS:
        raise BadImage(
            "image_too_large",
            f"the image has {width} x {height} pixels ({width * height / 1e6:.0f} megapixels); "
            f"at most {MAX_PIXELS / 1e6:.0f} megapixels are read",
        )
