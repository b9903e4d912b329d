"""The heartbeat of an API process: a byte in a pipe twice a second, for as long as its event loop turns.

`Pulse`, in the process that starts the APIs, detects one whose loop stands still, that was stopped as a whole, or that
accepts no connections although some wait. It sends `HUNG`, on which `faulthandler` logs where every thread was, without
the interpreter, and the process ends. The process starts no thread for that: its user may have as many as it may.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress

#: Ends a process that hangs. Unlike SIGABRT and SIGQUIT it leaves no core.
HUNG = signal.SIGALRM
_BEAT_S = 0.5
#: A watcher that looks less often than this was frozen itself, perhaps together with the process that it watches.
_FROZEN_S = 1.0
#: In `struct tcp_info`: of a listening socket the connections that wait to be accepted, and how many may.
_WAITING_OFFSET = 24
_TCP_INFO_BYTES = 104


class Heartbeat:
    """The sending side, on the event loop.

    Args:
        pipe: where to write; None if no process reads.
    """

    def __init__(self, pipe: int | None) -> None:
        self._pipe = pipe
        if pipe is not None:
            os.set_blocking(pipe, False)
            faulthandler.register(HUNG, file=sys.__stderr__ or sys.stderr, chain=True)

    async def run(self) -> None:
        """Beat until cancelled."""
        import asyncio  # the acceptor, which has no event loop, stays without it

        while True:
            self.beat()
            await asyncio.sleep(_BEAT_S)

    def beat(self) -> None:
        """Beat once; where no event loop turns, called twice a second."""
        if self._pipe is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe, b".")


class Pulse:
    """The receiving side, in the process that starts the APIs; one for each of them.

    Args:
        listener: the socket that the process accepts connections from; None where another process does.
        hung_seconds: without a beat, or without accepting from a full queue, after which a process hangs.
        first_seconds: how long the first beat may take; None for a process that waits for others, as for a database.
    """

    def __init__(
        self, listener: socket.socket | None, *, hung_seconds: float, first_seconds: float | None = None
    ) -> None:
        self._listener = listener
        self._hung_seconds = hung_seconds
        self._first_seconds = first_seconds
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)
        self._last_beat: float | None = None
        self._accepting = self._looked = self._begun = time.monotonic()

    def started(self) -> None:
        self._last_beat = None
        self._begun = time.monotonic()
        self._drain()

    def trouble(self) -> str | None:
        """Reason to end the process; None while it is alive."""
        now = time.monotonic()
        frozen, self._looked = now - self._looked > _FROZEN_S, now
        if self._drain() or (frozen and self._last_beat is not None):
            self._last_beat = now
        if frozen or self._last_beat is None or not _is_full(self._listener):
            self._accepting = now
        if self._last_beat is not None and now - self._last_beat > self._hung_seconds:
            return f"its event loop has stood still for {self._hung_seconds:.0f} s"
        if self._last_beat is None and self._first_seconds is not None and now - self._begun > self._first_seconds:
            return f"it has not begun within {self._first_seconds:.0f} s"
        if now - self._accepting > self._hung_seconds:
            return f"it has taken no connection for {self._hung_seconds:.0f} s although its queue is full"
        return None

    def close(self) -> None:
        os.close(self._read)
        os.close(self.write)

    def _drain(self) -> bool:
        with suppress(BlockingIOError):
            return bool(os.read(self._read, 65536))
        return False


def _is_full(listener: socket.socket | None) -> bool:
    """True where no further connection would fit into the queue of those that wait to be accepted."""
    if listener is None or sys.platform != "linux":
        return False
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    waiting, most = struct.unpack_from("=II", info, _WAITING_OFFSET)
    return bool(waiting > most)  # as the kernel counts: one more than the backlog says
