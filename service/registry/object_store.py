"""The object store: artifacts in a bucket, with copies of those in use on this machine's disk.

Files are named by their content, so a file is uploaded under its final name before any transaction, where it does
no harm; the transaction only checks that it is still there. What is fetched is never stale.

Copies are evicted least recently used first. Several processes share their folder: a process that uses a copy holds a
shared lock on it, and only unlocked copies are removed; the kernel takes the locks of a process that dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from service.registry.artifacts import ArtifactStore, StoredFile, list_folder, missing, remove_older, storing
from service.registry.errors import Unavailable
from service.registry.settings import RegistrySettings

if TYPE_CHECKING:
    from service.registry.s3 import Bucket

#: A copy that was used so recently may be about to be opened without a lock.
FRESH_S = 15 * 60.0
#: How long to wait for another process that fetches the same file: it may have been stopped.
_TIMEOUT_S = 30.0
_PAUSE_S = 0.05
#: A larger file is not sent again inside a transaction: all writers would wait for it.
_AGAIN_BYTES = 16 * 1024**2
#: A copy may be evicted between its arrival and its use, where the disk is small; not again and again.
_FETCHES = 3
#: Parts of large uploads may be another machine's, whatever grace this one's own files are given.
_PARTS_GRACE = timedelta(hours=24)
#: The cache is measured when so much of its limit was added: that takes a look at every copy.
_MEASURED_EVERY = 0.02


def open_artifacts(settings: RegistrySettings) -> ArtifactStore:
    if settings.artifact_bucket is None:
        return ArtifactStore(settings.resolved_artifacts)
    from service.registry.s3 import Bucket  # boto3 is an extra

    return ObjectStore(
        Bucket(*settings.artifact_bucket),
        settings.resolved_artifacts,
        cache_bytes=settings.artifact_cache_bytes,
        uploads=settings.data_dir.absolute() / "uploads",
    )


class ObjectStore(ArtifactStore):
    """A bucket of immutable files; the folder holds copies of at most about `cache_bytes`.

    Processes that share the folder share the copies. Each measures it after adding a fiftieth of the limit.
    """

    def __init__(self, bucket: Bucket, root: Path, *, cache_bytes: int, uploads: Path) -> None:
        super().__init__(root, uploads=uploads)
        self._bucket = bucket
        self._limit = cache_bytes
        self._turns = root / "turns"
        self._turns.mkdir(exist_ok=True)
        self._unmeasured = cache_bytes
        self._measuring = threading.Lock()

    def path(self, digest: str) -> Path:
        """Where a copy lies to be opened within a quarter of an hour; fetched if there is none.

        Raises NotFound if the file is not stored, Unavailable where it cannot be had now or is damaged.
        """
        os.close(self._taken(digest))
        return self.place(digest)

    @contextmanager
    def held(self, digest: str) -> Iterator[Path]:
        """Like `path`, and the copy stays there until the block is left, so that a child may open it hours later."""
        descriptor = self._taken(digest)
        try:
            yield self.place(digest)
        finally:
            os.close(descriptor)

    def deliver(self, path: Path, digest: str) -> None:
        """Upload the file under its final name, where no record names it yet."""
        self._make_room()
        with storing():
            self._bucket.put(path, digest)

    def adopt(self, path: Path, digest: str) -> None:
        """Make sure that the delivered file is still there: another record's deletion may have taken it away."""
        with storing():
            size = path.stat().st_size
        stored = self._bucket.find(digest)
        if stored is None or stored.size != size:
            if size > _AGAIN_BYTES:
                message = "another record's deletion took the same file away just now; send it again"
                raise Unavailable("storage_unavailable", message)
            with storing():
                self._bucket.put(path, digest, brief=True)
        self._added(size)
        with suppress(Unavailable):  # only a copy, for later requests
            super().adopt(path, digest)

    def remove(self, digests: Iterable[str]) -> None:
        """Delete files that no record names any more; what is already gone is no error."""
        for digest in digests:
            self._bucket.remove(digest)
            super().remove([digest])

    def clock(self) -> datetime:
        return self._bucket.clock()

    def listed(self, *, after: str = "", limit: int) -> list[StoredFile]:
        """At most `limit` stored files in the order of their digests, from the first one after `after`."""
        return self._bucket.listed(after=after, limit=limit)

    def expire(self, digest: str, *, before: datetime) -> bool:
        """Delete the file unless it was touched since `before`; whether it was deleted."""
        stored = self._bucket.find(digest)
        if stored is None or stored.changed >= before:
            return False
        self.remove([digest])
        return True

    def clear_left_overs(self, *, older_than: timedelta) -> list[int]:
        """Remove files of killed processes of this machine, and parts that were not finished within a day."""
        with storing():
            sizes = remove_older(self.incoming, before=super().clock() - older_than)
        dropped = self._bucket.abort_uploads(before=self.clock() - max(older_than, _PARTS_GRACE))
        return sizes + [0] * dropped  # how large they were only the store knows

    def check(self) -> None:
        """Raise OSError unless files can be received here, Unavailable unless the bucket answers; within about 3 s."""
        super().check()
        self._bucket.clock()

    def close(self) -> None:
        self._bucket.close()

    def _taken(self, digest: str) -> int:
        """An open descriptor of a copy, which keeps it from being evicted."""
        place = self.place(digest)
        for _ in range(_FETCHES):
            with storing():
                descriptor = take(place)
            if descriptor is not None:
                return descriptor
            with storing(), turn(self._turns, digest, done=place.exists):
                if not place.exists() and (fetched := self._fetch(digest)) is not None:
                    return fetched
        raise Unavailable("storage_unavailable", f"copies of {digest[:12]}… are removed as soon as they are fetched")

    def _fetch(self, digest: str) -> int | None:
        """Make a copy, visible once it is whole and its content is what was stored.

        Returns a descriptor that has kept it from being evicted since before it could be seen; None where another
        process was first.
        """
        descriptor, name = tempfile.mkstemp(dir=self.incoming)
        copy = Path(name)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                if not self._bucket.fetch(digest, file):
                    raise missing(digest)
                file.flush()
                os.fsync(descriptor)  # a power cut must not leave an empty file under a digest
                file.seek(0)
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    message = f"the stored file {digest[:12]}… is damaged: its content has another digest"
                    raise Unavailable("artifact_damaged", message)
            held = take(copy)
            assert held is not None, "no other process knows it yet"
            try:
                super().adopt(copy, digest)
                self._added(os.fstat(held).st_size)
            except BaseException:
                os.close(held)
                raise
        finally:
            copy.unlink(missing_ok=True)
        self._make_room()
        if os.fstat(held).st_nlink:
            return held
        os.close(held)
        return None

    def _added(self, size: int) -> None:
        with self._measuring:
            self._unmeasured += size

    def _make_room(self) -> None:
        with self._measuring:
            if self._unmeasured < self._limit * _MEASURED_EVERY:
                return
            self._unmeasured = 0
        with storing():
            evict(self.root, limit=self._limit, now=super().clock().timestamp())


def take(place: Path) -> int | None:
    """Open a copy, note that it is used, and keep it until the descriptor is closed; None if there is none."""
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(descriptor)
        gone = os.fstat(descriptor).st_nlink == 0
    except BlockingIOError:  # it is being evicted just now
        gone = True
    except BaseException:
        os.close(descriptor)
        raise
    if gone:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def turn(folder: Path, digest: str, *, done: Callable[[], bool], timeout: float = _TIMEOUT_S) -> Iterator[None]:
    """Wait while another thread or process fetches this file, until it is `done`, or the timeout passes.

    This saves traffic and is no promise: two that fetch the same file at once do no harm.
    """
    # Digests that begin alike share one of 4096 lock files, so that they need no clearing away.
    descriptor = os.open(folder / digest[:3], os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while not try_lock(descriptor) and not done() and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def evict(root: Path, *, limit: int, now: float) -> int:
    """Remove the copies (`ab/abcd…`) used longest ago until at most `limit` bytes are left; returns the bytes removed.

    `now` is the file system's clock, in seconds. What is fresh or held stays, also when it is more than the limit.
    """
    copies = sorted(list_folder(root, after="", limit=sys.maxsize), key=lambda copy: copy.changed)
    total = sum(copy.size for copy in copies)
    removed = 0
    for copy in copies:
        if total - removed <= limit or copy.changed.timestamp() > now - FRESH_S:
            break
        if _remove_unused(root / copy.digest[:2] / copy.digest, now - FRESH_S):
            removed += copy.size
    return removed


def _remove_unused(path: Path, before: float) -> bool:
    """Remove the copy unless it is locked or was used since."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(descriptor) or os.fstat(descriptor).st_mtime > before:
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    finally:
        os.close(descriptor)
    return True


def try_lock(descriptor: int) -> bool:
    """Lock an open file if no other process has; the lock ends with the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
