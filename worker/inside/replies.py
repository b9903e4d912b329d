"""The supervisor's replies, inside the sandbox: one line on standard input for each time that the child asks.

The end of standard input is the end of the supervisor, and ends the child at once.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import Literal

from worker.documents import AnyReply, ChildEvent, read_reply
from worker.inside.work_function import Emit

#: The exit code of a child whose supervisor is gone, or says what cannot be a reply.
ALONE = 3
#: A reply names the outcomes of some thousand trainings at most.
_LONGEST = 1024**2


class Replies:
    """Replies as they come; a thread reads them, so that the end of the supervisor is noticed in any computation."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen(self) -> None:
        """Read from now on."""
        threading.Thread(target=self._read, name="replies", daemon=True).start()

    def ask(self, wanted: Literal["training", "shard"] = "training") -> AnyReply:
        """Ask what to do next, and wait for the reply.

        Raises:
            ValueError: it is none.
        """
        self._emit(ChildEvent(asks=wanted))
        return read_reply(self._lines.get())

    def _read(self) -> None:
        pending = b""
        while chunk := os.read(0, 65536):  # nothing when the supervisor closes the pipe, or dies
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._lines.put(line)
            if len(pending) > _LONGEST:
                break
        os._exit(ALONE)
