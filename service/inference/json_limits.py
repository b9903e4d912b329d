"""Limits of JSON bodies: values are counted on the bytes, before anything is made of them.

A number takes as little as two bytes and becomes an object of 24 and more; an empty list takes three bytes and becomes
one of 56 that the collector looks at again and again. So bytes alone say little of what reading them costs: 4 MiB of
float32 in rows of 784 are read and converted in 28 ms on one core, 4 MiB of `[]` took 1.5 s.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

from service.registry.errors import TooLarge

#: Bytes for each value, on the average: of a body as large as may be, numbers of eight bytes just fill it.
_BYTES_PER_VALUE = 8
#: As how many numbers a mark counts: what it becomes takes about so many times as long to read, and to free.
_WEIGHTS = ((ord(","), 1), (ord(":"), 8), (ord("["), 4), (ord("{"), 4))
_HEAVIEST = max(weight for _, weight in _WEIGHTS)
#: Counted at once: numpy takes 0.25 ns a byte for all four, `bytes.count` as long for each.
_PIECE_BYTES = 256 * 1024
#: Smaller bodies are read without pausing the collector.
FEW_BYTES = 64 * 1024
_INSTEAD = (
    "send rows as application/x-npy, image files as they are (image/…, multipart/form-data), tensors in binary under "
    "/v2 (Inference-Header-Content-Length), or a stored dataset (POST /v1/predictions)"
)


def too_many_bytes(limit: int) -> TooLarge:
    """The error for JSON that is longer."""
    return TooLarge("too_large", f"JSON may have at most {limit} bytes in one request; {_INSTEAD}")


def check_json(body: bytes, *, limit: int, length: int | None = None) -> None:
    """Raise TooLarge where the JSON is too long, `too_large`, or holds too much, `too_many_values`.

    Args:
        limit: of its bytes.
        length: of the JSON at the beginning of the body; None for all of it.
    """
    size = len(body) if length is None else length
    if size > limit:
        raise too_many_bytes(limit)
    most = limit // _BYTES_PER_VALUE
    if size * _HEAVIEST <= most:
        return
    weight = _weight(np.frombuffer(body, np.uint8, count=size))
    if weight > most:
        found = f"JSON of {size} bytes with values, lists, objects and keys that weigh as {weight} numbers"
        raise TooLarge("too_many_values", f"{found}; at most {most} in one request: {_INSTEAD}", field="inputs")


def _weight(content: np.ndarray) -> int:
    pieces = [content[start : start + _PIECE_BYTES] for start in range(0, len(content), _PIECE_BYTES)]
    return sum(each * int(np.count_nonzero(piece == mark)) for piece in pieces for mark, each in _WEIGHTS)


class _Pause:
    """Pauses the collector while a large body is read: the objects of JSON have no cycles."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._readers = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    gc.enable()


#: A context for reading more than a few bytes of JSON; a list costs 110 ns in it, and 700 ns without.
collector_paused = _Pause()
