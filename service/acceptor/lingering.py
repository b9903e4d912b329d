"""Connections that the acceptor has answered: they are read to their end, and then closed.

A socket that is closed while something waits in it to be read is reset, and the client may lose the answer with it.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from contextlib import suppress

_LINGER_S = 2.0
_MOST = 1000
_READ_BYTES, _READS = 64 * 1024, 16


class Lingering:
    """Answers connections for the last time."""

    def __init__(self) -> None:
        self._clients: deque[tuple[socket.socket, float]] = deque()

    def __len__(self) -> int:
        return len(self._clients)

    def answer(self, client: socket.socket, answer: bytes) -> None:
        """Send this, and close the connection when its client has read it."""
        with suppress(OSError):
            client.send(answer, socket.MSG_DONTWAIT)
            client.shutdown(socket.SHUT_WR)
            self._clients.append((client, time.monotonic() + _LINGER_S))
            if len(self._clients) > _MOST:
                self._clients.popleft()[0].close()
            return
        client.close()

    def sweep(self, now: float) -> None:
        """Close those whose client has gone, or has had its time."""
        kept = deque((client, until) for client, until in self._clients if now < until and not _has_ended(client))
        for client in {client for client, _ in self._clients} - {client for client, _ in kept}:
            client.close()
        self._clients = kept


def _has_ended(client: socket.socket) -> bool:
    """Read what has come, and say whether that was all."""
    try:
        return any(not client.recv(_READ_BYTES, socket.MSG_DONTWAIT) for _ in range(_READS))
    except BlockingIOError:
        return False
    except OSError:
        return True
