"""The checkpoint uploader: it copies checkpoints from a child's folder into the registry while the child works on.

What an entry is kept for, and what else is written with it, the kind of work says. Only plain files of the journal's
very folder are taken: the child is not trusted and may write to it at any time.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import deque
from contextlib import closing, suppress
from pathlib import Path

from service.registry.errors import LeaseLost, Unavailable
from service.registry.registry import Registry
from worker.documents import SavedCheckpoint
from worker.outside import metrics
from worker.outside.kinds import WorkKind
from worker.sandbox.protocol import Replies

_LOG = logging.getLogger("fedlas.worker")

#: Where a child leaves what it saves.
_FOLDER = "journal"
#: The entry that is replaced with every epoch: an older one is not uploaded when a newer one is there.
_RUNNING = "running"
_MAX_WAITING = 10_000
_PAUSE_S = 1.0


class OpenFile:
    """A plain file in a folder that hostile code may write to: neither a link nor a second name of another file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self.descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
        except OSError:
            os.close(self._folder)
            raise
        status = os.fstat(self.descriptor)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            self.close()
            raise OSError(f"{name!r} is no plain file of its own")

    def remove(self) -> None:
        os.unlink(self._name, dir_fd=self._folder)

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._folder)


class CheckpointUploader:
    """Uploads entries in the order in which the child saved them, for as long as its claim holds.

    With each entry the events are written that the child reported before it saved: the next attempt does not report
    them again.

    Args:
        most_bytes: a larger entry is not kept.
    """

    def __init__(self, registry: Registry, work: WorkKind, folder: Path, replies: Replies, *, most_bytes: int) -> None:
        self._registry = registry
        self._work = work
        self._folder = folder / _FOLDER
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[str, str]] = deque()
        self._superseded: list[str] = []
        self._changed = threading.Condition()
        self._busy = self._closed = self._asked = False
        self._replies = replies
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"checkpoints {work.record_id}", daemon=True)

    def submit(self, entry: SavedCheckpoint) -> None:
        with self._changed:
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append((entry.name, entry.file))
                self._changed.notify_all()

    def ask(self) -> None:
        """The child waits for a reply; what it has saved before is uploaded before it is answered."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def drain(self, seconds: float) -> bool:
        """Wait until everything is uploaded, or cannot be any more, but no longer than this; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not (self._waiting or self._busy), seconds)

    def __enter__(self) -> CheckpointUploader:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while self._awaited():
            entry = self._next()
            try:
                if entry is None:
                    self._answer()
                else:
                    self._upload(*entry)
            except LeaseLost:
                with self._changed:
                    self._closed = True
            except Unavailable as error:  # it is tried again, for the child neither saves nor asks again
                what = "the next shard" if entry is None else f"checkpoint {entry[0]}"
                _LOG.warning("%s: %s has to wait: %s", self._work.claim, what, error)
                self._wait_with(entry)
            except Exception as error:  # the child goes on; only a restart would repeat more
                if entry is None:
                    self._error = error
                    return
                _LOG.warning("%s: checkpoint %s is not uploaded: %s", self._work.claim, entry[0], error)
                metrics.CHECKPOINT_UPLOADS.labels("refused").inc()

    def _awaited(self) -> bool:
        """Wait for something to do; False after the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._asked or self._closed)
            self._busy = not self._closed
            return self._busy

    def _next(self) -> tuple[str, str] | None:
        """The next entry, or None where only an ask waits; superseded states of the running candidate are skipped."""
        with self._changed:
            while self._waiting:
                name, file = self._waiting.popleft()
                if name != _RUNNING or all(later != _RUNNING for later, _ in self._waiting):
                    return name, file
                self._superseded.append(file)
            return None

    def _answer(self) -> None:
        reply = self._work.reply()
        with self._changed:
            self._asked = False  # before the child can know: it may ask again at once
        self._replies.send(reply)

    def _wait_with(self, entry: tuple[str, str] | None) -> None:
        with self._changed:
            if entry is not None:
                metrics.CHECKPOINT_UPLOADS.labels("delayed").inc()
                self._waiting.appendleft(entry)
            self._changed.wait_for(lambda: self._closed, _PAUSE_S)

    def _upload(self, name: str, file: str) -> None:
        while self._superseded:
            with suppress(OSError), closing(OpenFile(self._folder, self._superseded.pop())) as opened:
                opened.remove()
        with closing(OpenFile(self._folder, file)) as opened:
            if opened.size > self._most_bytes:
                raise OSError(f"{opened.size} bytes are more than a checkpoint may have")
            with self._registry.artifacts.stage_open(opened.descriptor) as staged:
                staged.seal()
                with self._registry.write() as unit:
                    replaced = self._work.save_checkpoint(unit, name, staged)
                    unit.after_commit.unreferenced += [digest for digest in replaced if digest != staged.digest]
            metrics.CHECKPOINT_UPLOADS.labels("kept").inc()
            metrics.CHECKPOINT_BYTES.inc(opened.size)
            opened.remove()
