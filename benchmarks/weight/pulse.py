"""Asks every few milliseconds, from processes of its own: the longest gap between answers is a standstill.

`/healthz` is asked, which control answers, and a prediction without a key, which a serving process refuses.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from contextlib import suppress
from multiprocessing.sharedctypes import SynchronizedArray

_EVERY_S = 0.005
_PATIENCE_S = 120.0
#: Each with the beginning of its answer.
_QUESTIONS = (
    (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"HTTP/1.1 200"),
    (b"POST /v1/models/a/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 401"),
)
_SPAWN = multiprocessing.get_context("spawn")


class Pulse:
    """Watches one service for as long as the block runs."""

    def __init__(self, port: int) -> None:
        self._last: SynchronizedArray[float] = _SPAWN.Array("d", len(_QUESTIONS))
        self._longest: SynchronizedArray[float] = _SPAWN.Array("d", len(_QUESTIONS))
        self._processes = [
            _SPAWN.Process(target=_watch, args=(port, number, self._last, self._longest), daemon=True)
            for number in range(len(_QUESTIONS))
        ]

    def __enter__(self) -> Pulse:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def reset(self) -> None:
        """Forget the gaps so far."""
        self._longest[:] = [0.0] * len(_QUESTIONS)

    def settle(self, *, patience: float) -> bool:
        """Wait until all is answered again; False if it does not in time."""
        asked = time.monotonic()
        while min(self._last[:]) < asked + 2 * _EVERY_S:
            if time.monotonic() > asked + patience:
                return False
            time.sleep(_EVERY_S)
        return True

    @property
    def longest(self) -> float:
        """The longest gap since the last reset, in seconds; one that is not over counts so far."""
        return max(*self._longest[:], time.monotonic() - min(self._last[:]))


def _watch(port: int, number: int, last: SynchronizedArray[float], longest: SynchronizedArray[float]) -> None:
    """Ask for as long as the attacker lives; a connection that breaks is made again, and the gap goes on."""
    last[number], attacker = time.monotonic(), os.getppid()
    while os.getppid() == attacker:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
            while _asked(connection, *_QUESTIONS[number]):
                now = time.monotonic()
                longest[number] = max(longest[number], now - last[number])
                last[number] = now
                time.sleep(_EVERY_S)
        time.sleep(_EVERY_S)


def _asked(connection: socket.socket, question: bytes, expected: bytes) -> bool:
    connection.sendall(question)
    return connection.recv(4096).startswith(expected)
