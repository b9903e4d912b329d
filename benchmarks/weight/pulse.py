"""Asks `/healthz` every few milliseconds from a process of its own: the longest gap between answers is a standstill."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from contextlib import suppress
from multiprocessing.sharedctypes import Synchronized

_EVERY_S = 0.005
_PATIENCE_S = 120.0
_QUESTION = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_SPAWN = multiprocessing.get_context("spawn")


class Pulse:
    """Watches one service for as long as the block runs."""

    def __init__(self, port: int) -> None:
        self._last: Synchronized[float] = _SPAWN.Value("d", 0.0)
        self._longest: Synchronized[float] = _SPAWN.Value("d", 0.0)
        self._process = _SPAWN.Process(target=_watch, args=(port, self._last, self._longest), daemon=True)

    def __enter__(self) -> Pulse:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def reset(self) -> None:
        """Forget the gaps so far."""
        self._longest.value = 0.0

    def settle(self, *, patience: float) -> bool:
        """Wait until it answers again; False if it does not in time."""
        asked = time.monotonic()
        while self._last.value < asked + 2 * _EVERY_S:
            if time.monotonic() > asked + patience:
                return False
            time.sleep(_EVERY_S)
        return True

    @property
    def longest(self) -> float:
        """The longest gap since the last reset, in seconds; one that is not over counts so far."""
        return max(self._longest.value, time.monotonic() - self._last.value)


def _watch(port: int, last: Synchronized[float], longest: Synchronized[float]) -> None:
    """Ask for as long as the attacker lives; a connection that breaks is made again, and the gap goes on."""
    last.value, attacker = time.monotonic(), os.getppid()
    while os.getppid() == attacker:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
            while _asked(connection):
                now = time.monotonic()
                longest.value = max(longest.value, now - last.value)
                last.value = now
                time.sleep(_EVERY_S)
        time.sleep(_EVERY_S)


def _asked(connection: socket.socket) -> bool:
    connection.sendall(_QUESTION)
    answer = connection.recv(4096)
    return answer.startswith(b"HTTP/1.1 200")
