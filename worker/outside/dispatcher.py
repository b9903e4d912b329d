"""The dispatcher: a thread of its own that gives a child the trainings it asks for, and waits for those of others.

What the child has saved before it asks is in the registry before it is answered.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Self

from service.registry.errors import Unavailable
from worker.outside.checkpoint_upload import FOLDER, CheckpointUploader
from worker.outside.kinds import WorkKind
from worker.sandbox.replies import Replies

_LOG = logging.getLogger("fedlas.worker")

#: How often it is looked what has become of the trainings that others do.
_LOOK_S = 0.5


class Dispatcher:
    """Answers one ask after the other, while its `with` block runs; an ask beside one that waits is passed over."""

    def __init__(self, work: WorkKind, folder: Path, replies: Replies, uploader: CheckpointUploader) -> None:
        self._work, self._journal, self._replies, self._uploader = work, folder / FOLDER, replies, uploader
        self._asked, self._closed = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"dispatcher {work.record_id}", daemon=True)

    def check(self) -> None:
        """Raise what an ask has met: Suspended, PieceFailed, LeaseLost, or a defect."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._journal.mkdir()  # before the child begins, which makes it its own: later it could not write to it
        self._work.ask = self._asked.set
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._asked.wait() and not self._closed.is_set():
                self._answer()
        except Exception as error:  # the thread that watches the child raises it
            self._error = error

    def _answer(self) -> None:
        while not self._closed.is_set():
            if self._uploader.drain(_LOOK_S):
                try:
                    reply = self._work.reply(self._journal)
                except Unavailable as error:
                    _LOG.warning("%s: its child waits for a training: %s", self._work.claim, error)
                    reply = None
                if reply is not None:
                    self._asked.clear()  # before the child can know: it may ask again at once
                    self._replies.send(reply)
                    break
                self._closed.wait(_LOOK_S)
