"""The memory of requests in flight: bodies, rows and answers of all requests are bounded together."""

from __future__ import annotations

from service.registry.errors import Overloaded


class InflightMemory:
    """Counts the bytes that requests hold. It lives on the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, more: int, *, held: int) -> None:
        """Count more bytes of a request that holds some already; raises Overloaded beyond the limit.

        A request that is alone is never refused.
        """
        others = self.held_bytes - held
        if others > 0 and self.held_bytes + more > self.max_bytes:
            message = f"other requests fill the {self.max_bytes} bytes there are for bodies and rows; try again in 1 s"
            raise Overloaded("overloaded", message, retry_after=1)
        self.held_bytes += more

    def release(self, size: int) -> None:
        """Uncount bytes."""
        self.held_bytes -= size
