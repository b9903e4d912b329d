"""Replies: JSON lines for the standard input of a running child; nobody waits for a child that does not read them."""

from __future__ import annotations

import os
import threading
import time

from pydantic import BaseModel

#: A race of a thousand candidates is told of its trainings in less.
_LONGEST_REPLY = 1024**2
#: A child that asks reads soon; one that leaves a reply unread for so long is ended.
_PATIENCE_S = 30.0


class Replies:
    """The replies to one child, safe to be sent by any thread; what its pipe does not take at once is written later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = None
        self._unread = b""
        self._unread_since = 0.0

    def connect(self, pipe: int) -> None:
        """The child has started, and reads from the other end of this pipe."""
        os.set_blocking(pipe, False)
        with self._lock:
            self._pipe = pipe

    def disconnect(self) -> None:
        """The child has ended; nothing is written to its pipe any more."""
        with self._lock:
            self._pipe, self._unread = None, b""

    def send(self, reply: BaseModel) -> None:
        """Send one reply; nothing happens where the child has ended.

        Raises:
            ValueError: it is longer than any reply.
        """
        line = reply.model_dump_json().encode() + b"\n"
        if len(line) > _LONGEST_REPLY:
            raise ValueError(f"a reply of {len(line)} bytes is longer than {_LONGEST_REPLY}")
        with self._lock:
            self._unread += line
            self._unread_since = time.monotonic()
            self._write()

    def flush(self) -> None:
        """Write what the pipe takes now of what it has not taken before."""
        with self._lock:
            self._write()

    @property
    def unread(self) -> bool:
        """Whether the pipe has not taken all."""
        return bool(self._unread)

    @property
    def ignored(self) -> bool:
        """Whether the child has had all the time that it needs to read what was sent."""
        return self.unread and time.monotonic() - self._unread_since > _PATIENCE_S

    def _write(self) -> None:
        if self._pipe is None:
            return
        try:
            while self._unread:
                self._unread = self._unread[os.write(self._pipe, self._unread) :]
        except BlockingIOError:  # the pipe is full
            pass
        except BrokenPipeError:  # the child is about to end
            self._unread = b""
