"""Bodies of predict requests, written by the libraries that clients write them with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.predict.engine.profile import ServingProfile
from service.predict.formats import request_formats
from tests.helpers import Json

NPY = "application/x-npy"
FORM = "multipart/form-data; boundary=XyZ"

#: Models as their profiles describe them.
TABLE: Json = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 4]}]}
GRID: Json = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2, 3]}]}
TOKENS: Json = {
    "inputs": [
        {"name": "ids", "dtype": "int64", "shape": ["N", "T"]},
        {"name": "mask", "dtype": "int64", "shape": ["N", "T"]},
    ]
}
PICTURES: Json = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3, 8, 8]}],
    "preprocessing": {"resize": 8, "crop": 8, "mean": [0.5, 0.4, 0.3], "std": 0.25},
}


def read(content_type: str, body: bytes, profile: Json = TABLE, *, query: bytes = b"", max_rows: int = 1000) -> Any:
    """The service's reading of a request."""
    return request_formats.read(content_type, query, body, ServingProfile.of(profile), max_rows=max_rows)


def rows(content_type: str, body: bytes, profile: Json = TABLE, **more: Any) -> dict[str, np.ndarray]:
    """The arrays alone."""
    arrays: dict[str, np.ndarray] = read(content_type, body, profile, **more)[0]
    return arrays


def npy(array: Any, *, version: tuple[int, int] | None = None) -> bytes:
    """The bytes that `np.save` writes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), version=version)
    return buffer.getvalue()


def raw_npy(
    header: str | bytes, content: bytes = b"", *, version: bytes = b"\x01\x00", claims: int | None = None
) -> bytes:
    """An npy file written by hand, so that it can lie."""
    text = header.encode("latin-1") if isinstance(header, str) else header
    length = len(text) if claims is None else claims
    return b"\x93NUMPY" + version + length.to_bytes(2 if version[0] == 1 else 4, "little") + text + content


def form(*parts: tuple[str, bytes], boundary: str = "XyZ", end: bool = True) -> bytes:
    """A form of parts, each with what stands behind `form-data;` and its content."""
    made = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode(), content)
        for head, content in parts
    )
    return made + (b"--%b--\r\n" % boundary.encode() if end else b"")


def file_parts(files: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Files as browsers send them."""
    return [(f'name="file{i}"; filename="{i}.png"', content) for i, content in enumerate(files)]
