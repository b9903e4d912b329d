"""What is written to a connection within one turn of the event loop leaves in one packet; it knows no HTTP.

uvicorn writes the head of an answer and its body one after the other, and each write is a system call: a third of what
a small answer costs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: How long a client may read nothing of what it was sent.
PATIENCE_S = 60.0


class GatheringTransport:
    """A transport that passes on what was written when the present turn of the loop is over; else the one it wraps."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write soon, in order."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Close when everything has been sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            if not self._transport.is_closing():  # the client may have gone within this turn
                self._transport.write(held[0] if len(held) == 1 else b"".join(held))


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP over such a transport; a client that does not read for a minute is let go, or answers would stay.

    uvicorn itself waits for ever: its limits are for clients that do not send.
    """

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client has connected."""
        super().connection_made(GatheringTransport(transport, self.loop))  # type: ignore[arg-type]

    def pause_writing(self) -> None:
        """Called when more is written than the client reads."""
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        """Called when it has caught up."""
        self._look_no_more()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when it has gone."""
        self._look_no_more()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(PATIENCE_S, self._look, unread)

    def _look(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() >= unread:
            self.transport.abort()
        else:
            self._look_again()

    def _look_no_more(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
