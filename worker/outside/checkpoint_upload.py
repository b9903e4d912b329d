"""The checkpoint uploader: it copies checkpoints from a child's folder into the registry while the child trains on.

The child is not trusted: only plain files of its own journal folder are taken, whatever their names say.
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

_LOG = logging.getLogger("fedlas.worker")

#: Where a child leaves what it saves.
FOLDER = "journal"
#: The entry that is replaced with every epoch: an older one is not uploaded when a newer one is there.
_RUNNING = "running"
_MOST_WAITING = 10_000
#: A race has at most a thousand candidates, and few other entries.
_MOST_NAMES = 1100
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
        self._claim = work.claim
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

    def drain(self, seconds: float) -> None:
        """Wait until everything is uploaded, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not (self._waiting or self._busy), seconds)

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
                _LOG.warning("%s: checkpoint %s is not uploaded yet: %s", self._claim.record_id, entry[0], error)
                metrics.CHECKPOINT_UPLOADS.labels("delayed").inc()
                self._put_back(entry)
            except Exception as error:  # the child goes on; only a restart would repeat more
                _LOG.warning("%s: checkpoint %s is not uploaded: %s", self._claim.record_id, entry[0], error)
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
            with suppress(OSError), closing(_OpenFile(self._folder, self._superseded.pop())) as opened:
                opened.remove()
        job_id = self._claim.record_id
        with closing(_OpenFile(self._folder, file)) as opened:
            if opened.size > self._most_bytes:
                raise OSError(f"{opened.size} bytes are more than a checkpoint may have")
            with self._registry.artifacts.stage_open(opened.descriptor) as staged:
                staged.seal()
                with self._registry.write() as unit:
                    unit.work.verify(self._claim, reached=self._work.reached)
                    known = unit.checkpoints.of(job_id)
                    if name not in known and len(known) >= _MOST_NAMES:
                        raise OSError("there are too many checkpoints")
                    self._work.write_events(unit)
                    older = unit.checkpoints.save(job_id, name, staged.keep())
                digest = staged.digest
            metrics.CHECKPOINT_UPLOADS.labels("kept").inc()
            metrics.CHECKPOINT_BYTES.inc(opened.size)
            opened.remove()
        if older is not None and older != digest:
            with suppress(Unavailable):  # the sweeper finds what is left
                self._registry.discard([older])


class _OpenFile:
    """A plain file in a folder that hostile code may write to: neither a link nor a second name of another file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self.descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
        except OSError:
            os.close(self._folder)
            raise
        found = os.fstat(self.descriptor)
        self.size = found.st_size
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            self.close()
            raise OSError(f"{name!r} is no plain file of its own")

    def remove(self) -> None:
        """Delete the file."""
        os.unlink(self._name, dir_fd=self._folder)

    def close(self) -> None:
        """Close the file and its folder."""
        os.close(self.descriptor)
        os.close(self._folder)
