"""Image files: as many pixels for a byte as a format allows, in few files or in many."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image

from benchmarks.weight.content import Content, listed, repeated
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MOST_BODY, Attack, TooBig, one, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World

_MOST_PIXELS = 1 << 26  # of one file, so that the attacker itself stays small


@family(
    "images",
    "pixels in a file, files in a request, by format and way of sending",
    side=Size(1, 1 << 14),
    stretched=Size(1, 1 << 14),
    files=Size(1, 1 << 16),
    kind=choice("PNG grey", "PNG bit", "PNG colour", "PNG deep", "JPEG", "JPEG progressive", "WEBP", "BMP"),
    way=choice("raw", "b64", "multipart", "tensor"),
)
def _images(world: World, *, side: int, stretched: int, files: int, kind: str, way: str) -> Attack:
    width, height = side * stretched, side
    if width * height > _MOST_PIXELS:
        raise TooBig("more pixels than the attacker makes")
    try:
        file = _png(width, height, kind) if kind.startswith("PNG") else _pillow(width, height, kind)
    except (OSError, ValueError, struct.error) as error:
        raise TooBig(f"{kind} has no such sizes") from error
    return one(_sent(world, file, files, way))


def _sent(world: World, file: bytes, files: int, way: str) -> Content:
    if files * len(file) > MOST_BODY or (way == "raw" and files > 1):
        raise TooBig("the files alone are larger than a body")
    target, key, count = world.predict("image"), world.key, b"%d" % files
    if way == "raw":
        return request("POST", target, repeated(file, 1), kind="application/octet-stream", key=key)
    if way == "b64":
        body = b'{"inputs":[' + listed(b'{"b64":"' + base64.b64encode(file) + b'"}', files) + b"]}"
        return request("POST", target, body, key=key)
    if way == "multipart":
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + file + b"\r\n"
        return request(
            "POST", target, repeated(part, files) + b"--b--\r\n", kind="multipart/form-data; boundary=b", key=key
        )
    data = repeated(struct.pack("<I", len(file)) + file, files)
    size = b"%d" % data.size
    head = (
        b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[' + count + b'],"parameters":{"binary_data_size":' + size
    )
    head += b"}}]}"
    headers = b"Inference-Header-Content-Length: %d\r\n" % len(head)
    kind = "application/octet-stream"
    return request("POST", world.infer("image"), head + data, kind=kind, key=key, headers=headers)


def _png(width: int, height: int, kind: str) -> bytes:
    """Black; its pixels are never held."""
    depth, colour, bits = {
        "PNG bit": (1, 0, 1), "PNG grey": (8, 0, 8), "PNG colour": (8, 2, 24), "PNG deep": (16, 6, 64),
    }[kind]  # fmt: skip
    packer = zlib.compressobj(9)
    line = bytes(1 + (width * bits + 7) // 8)
    data = b"".join([packer.compress(line) for _ in range(height)]) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _pillow(width: int, height: int, kind: str) -> bytes:
    file = io.BytesIO()
    name, *progressive = kind.split()
    Image.new("L", (width, height)).save(file, format=name, progressive=bool(progressive))
    return file.getvalue()
