"""The channel to the supervisor: what a child tells it, and its replies, one line on standard input for each ask.

A function that does work in the child is `(order, files, folder, emit) -> result`, some with `ask`. The end of standard
input is the end of the supervisor, and ends the child at once.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from worker.documents import ChildEvent, Reply

#: The files that the child may read, by name.
Files = Mapping[str, Path]
#: Reports an event; plain progress is thinned out.
Emit = Callable[[ChildEvent], None]
#: Asks the supervisor what to do next, and waits for its reply.
Ask = Callable[[], Reply]
#: The exit code of a child whose supervisor is gone, or says what cannot be a reply.
ALONE = 3
_MAX_MESSAGE_BYTES = 1024**2


class Replies:
    """Replies as they come; a thread reads them, so that the end of the supervisor is noticed in any computation."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen(self) -> None:
        threading.Thread(target=self._read, name="replies", daemon=True).start()

    def ask(self) -> Reply:
        """Ask what to do next, and wait for the reply; raises ValueError where it is none."""
        self._emit(ChildEvent(asks="shard"))
        return Reply.model_validate_json(self._lines.get())

    def _read(self) -> None:
        pending = b""
        while chunk := os.read(0, 65536):  # nothing when the supervisor closes the pipe, or dies
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._lines.put(line)
            if len(pending) > _MAX_MESSAGE_BYTES:
                break
        os._exit(ALONE)
