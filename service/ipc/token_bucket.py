"""A token bucket: how much of something may come in a second, and at once after a silence."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Filled at a steady rate, up to what it holds; on one thread.

    >>> now = 0.0
    >>> bucket = TokenBucket(per_second=10, most=20, clock=lambda: now)
    >>> bucket.take(20), bucket.take(5)
    (0.0, 0.5)
    """

    def __init__(self, *, per_second: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = self._left = most
        self._clock = clock
        self._filled_at = clock()

    def take(self, tokens: float) -> float:
        """Take so many, owed where they are not there; returns in how many seconds there are any again."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._filled_at) * self._per_second) - tokens
        self._filled_at = now
        return max(0.0, -self._left / self._per_second)
