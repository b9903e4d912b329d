"""Record ids: a prefix that tells the kind, then 26 characters that sort by time (the ULID layout)."""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case
_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """Return a new id; within a process ids grow strictly, even within one millisecond.

    >>> first, second = new_id("job"), new_id("job")
    >>> first < second, len(first)
    (True, 30)
    """
    global _last
    with _lock:
        number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        _last = number if number > _last else _last + 1
        return f"{prefix}_{_encode(_last)}"


def _encode(number: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
