"""What a process that answers predictions may send to control in a second, and what it keeps to by itself.

It sends 50 KiB a second for a model that answers 11,000 predictions (names ten times a second, keys every five seconds,
counts every second), and 6 MiB where strangers make it ask as often as it does. More is refused on its own side, so
that one whose messages exceed what control reads does not run our code any more.
"""

from __future__ import annotations

from service.ipc.token_bucket import TokenBucket

_MIB = 1024**2


def sent() -> TokenBucket:
    """Bytes that a process sends, each message counted as 4 KiB at least; four times as much after a silence."""
    return TokenBucket(per_second=12 * _MIB, most=48 * _MIB)


def read() -> TokenBucket:
    """Bytes that control reads of it."""
    return TokenBucket(per_second=16 * _MIB, most=64 * _MIB)
