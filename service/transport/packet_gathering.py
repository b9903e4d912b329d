"""A transport that sends what is written within one turn of the event loop in one packet.

uvicorn writes the head of an answer and its body one after the other, and each write is a system call: a third of what
a small answer costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

#: How long a connection that is closed is still read from, where its client has not sent everything: closed at once,
#: the kernel answers what comes with a reset, and the client may never see the answer that explains it.
LINGER_S = 2.0


class GatheringTransport:
    """Writes at the end of the present turn of the loop; everything else is the transport that it wraps.

    Args:
        lingers: whether the client may still be sending; then `close` ends this side first, and all of it soon after.
    """

    __slots__ = ("_held", "_lingering", "_lingers", "_loop", "_transport")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, lingers: Callable[[], bool] = lambda: False
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._lingers = lingers
        self._held: list[bytes] = []
        self._lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of this turn, in order."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_now(self, data: bytes) -> None:
        """Write what is held, and this."""
        self._held.append(data)
        self._flush()

    def get_write_buffer_size(self) -> int:
        """How many bytes are not sent yet."""
        unsent: int = self._transport.get_write_buffer_size()
        return unsent + sum(map(len, self._held))

    def is_closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close when everything has been sent."""
        if self._lingering:
            return
        self._flush()
        if not self._transport.is_closing() and self._lingers():
            self._lingering = True
            self._transport.write_eof()
            self._loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            if not self.is_closing():  # the client may have gone within this turn
                self._transport.write(held[0] if len(held) == 1 else b"".join(held))
