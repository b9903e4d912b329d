"""The checkpoint uploader: it copies checkpoints from a child's folder into the registry while the child trains on.

What an entry is kept for, and what else is written with it, the kind of work says.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import closing, suppress
from pathlib import Path

from service.registry.errors import LeaseLost, Unavailable
from service.registry.registry import Registry
from worker.documents import SavedCheckpoint
from worker.outside import metrics
from worker.outside.journal_folder import OpenFile
from worker.outside.kinds import WorkKind

_LOG = logging.getLogger("fedlas.worker")

#: Where a child leaves what it saves.
FOLDER = "journal"
#: The entry that is replaced with every epoch: an older one is not uploaded when a newer one is there.
_RUNNING = "running"
_MOST_WAITING = 10_000
_PAUSE_S = 1.0


class CheckpointUploader:
    """Uploads entries in the order in which the child saved them, for as long as its claim holds.

    With each entry the events are written that the child reported before it saved: the next attempt does not report
    them again.

    Args:
        most_bytes: a larger entry is not kept.
    """

    def __init__(self, registry: Registry, work: WorkKind, folder: Path, *, most_bytes: int) -> None:
        self._registry = registry
        self._work = work
        self._folder = folder / FOLDER
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[str, str]] = deque()
        self._superseded: list[str] = []
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"checkpoints {work.record_id}", daemon=True)

    def submit(self, entry: SavedCheckpoint) -> None:
        """The child has saved an entry."""
        with self._changed:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append((entry.name, entry.file))
                self._changed.notify_all()

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
        while (entry := self._next()) is not None:
            try:
                self._upload(*entry)
            except LeaseLost:
                with self._changed:
                    self._closed = True
            except Unavailable as error:  # it is tried again, for the child does not save it again
                _LOG.warning("%s: checkpoint %s is not uploaded yet: %s", self._work.claim, entry[0], error)
                metrics.CHECKPOINT_UPLOADS.labels("delayed").inc()
                self._put_back(entry)
            except Exception as error:  # the child goes on; only a restart would repeat more
                _LOG.warning("%s: checkpoint %s is not uploaded: %s", self._work.claim, entry[0], error)
                metrics.CHECKPOINT_UPLOADS.labels("refused").inc()

    def _next(self) -> tuple[str, str] | None:
        """Wait for an entry; superseded states of the running candidate are skipped. None after the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._busy = True
            while True:
                name, file = self._waiting.popleft()
                if name != _RUNNING or all(later != _RUNNING for later, _ in self._waiting):
                    return name, file
                self._superseded.append(file)

    def _put_back(self, entry: tuple[str, str]) -> None:
        with self._changed:
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
