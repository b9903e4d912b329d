"""Inflation of compressed bodies, no further than is allowed."""

from __future__ import annotations

import zlib

from service.inference.excerpts import shown
from service.registry.errors import InvalidRequest, TooLarge

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS

_ALWAYS_BYTES, _MOST_RATIO = 8 << 20, 100


def inflated(body: bytes, encoding: str, *, limit: int) -> bytes:
    """The body as it was before it was compressed.

    `encoding` is gzip, deflate (with zlib's wrapping, as the standard has it, or raw, as some send it), identity or
    nothing. No more than `limit` bytes are ever made, nor, beyond 8 MiB, more than 100 times what was sent: numbers as
    they are measured shrink by a tenth to a half, and only zeros shrink to a thousandth.

    Raises:
        TooLarge: `too_large`, more than so many bytes.
        InvalidRequest: `unsupported_encoding`; `invalid_encoding` for what is cut off, damaged or followed by more.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    limit = min(limit, max(_ALWAYS_BYTES, _MOST_RATIO * len(body)))
    inflater = zlib.decompressobj(_window(body, name))
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise _invalid(f"the body is not {name}: {error}") from error
    if len(content) > limit:
        raise _too_large(limit)
    if not inflater.eof:
        raise _invalid(f"the {name} body is cut off after {len(body)} bytes")
    if inflater.unused_data:
        raise _invalid(f"{len(inflater.unused_data)} bytes follow the end of the {name} body")
    return content


def _window(body: bytes, name: str) -> int:
    if name in ("gzip", "x-gzip"):
        return _GZIP
    if name != "deflate":
        message = f"Content-Encoding {shown(name)} is not read; known are gzip, deflate and identity"
        raise InvalidRequest("unsupported_encoding", message)
    # RFC 1950: method 8, and the first two bytes are a multiple of 31. No encoder begins a raw stream like that.
    wrapped = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _ZLIB if wrapped else _RAW


def _too_large(limit: int) -> TooLarge:
    return TooLarge("too_large", f"the body has, or becomes, more than {limit} bytes, the most that it may have")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest("invalid_encoding", message)
