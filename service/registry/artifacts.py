"""Artifacts: immutable files, named by the SHA-256 of their content.

A file is written beside its final place, counted and hashed on the way, and gets its name when it is whole (`keep`):
nothing half-written can be found under a digest. `ArtifactStore` keeps them in a folder; `object_store` in a bucket.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from service.registry.errors import NotFound, TooLarge, Unavailable

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store lists it: `size` in bytes, `changed` by the store's own clock."""

    digest: str
    size: int
    changed: datetime


def is_digest(name: str) -> bool:
    """True where this can be the name of a stored file; other files are left alone."""
    return _DIGEST.fullmatch(name) is not None


def list_folder(root: Path, *, after: str, limit: int) -> list[StoredFile]:
    """At most `limit` files (`ab/abcd…`) in the order of their digests, from the first one after `after`."""
    files: list[StoredFile] = []
    for number in range(256):
        prefix = f"{number:02x}"
        names: list[str] = []
        if prefix >= after[:2] and len(files) < limit:
            with suppress(FileNotFoundError):
                names = [name for name in os.listdir(root / prefix) if name > after and is_digest(name)]
        for name in sorted(names):
            if len(files) == limit:
                break
            with suppress(FileNotFoundError):  # removed meanwhile
                stat = os.stat(root / prefix / name)
                files.append(StoredFile(name, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)))
    return files


def remove_older(folder: Path, *, before: datetime, unlocked: bool = False) -> list[int]:
    """Remove files, `unlocked` ones only, that nothing was written to since; returns their sizes in bytes."""
    sizes = []
    with os.scandir(folder) as entries:
        for entry in entries:  # FileNotFoundError: kept or discarded meanwhile
            with suppress(FileNotFoundError, BlockingIOError), open(entry, "rb") as file:
                if unlocked:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                stat = os.fstat(file.fileno())
                if stat.st_mtime < before.timestamp():
                    os.unlink(entry)
                    sizes.append(stat.st_size)
    return sizes


_CHUNK = 1024 * 1024
#: Between making a file and locking it.
_MOMENT = timedelta(minutes=1)
#: Left free for the database, which has to write in order to delete: so much, or a share of a smaller disk.
_MIN_FREE_BYTES = 64 * 1024**2
_MIN_FREE_SHARE = 1 / 16


class StagedFile(AbstractContextManager["StagedFile"]):
    """A file on its way in: write to it, `seal` it, then `keep` it, or leave the `with` block and it is gone.

    Attributes:
        size: bytes written so far.
        digest: hexadecimal SHA-256 of what was written so far.
    """

    def __init__(self, store: ArtifactStore, *, limit: int | None = None) -> None:
        self._store = store
        self._limit = limit
        descriptor, name = tempfile.mkstemp(dir=store.incoming)
        self.path = Path(name)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._held = os.fdopen(os.dup(descriptor), "rb")  # with its lock, until the file is kept or discarded
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._hash = hashlib.sha256()
        self._delivered = False
        self.size = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> int:
        """Append `chunk`, return its length; raises TooLarge beyond the limit, Unavailable where the disk refuses."""
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge("too_large", f"the upload is larger than the limit of {self._limit} bytes")
        self._hash.update(chunk)
        with storing():
            require_room(self._file.fileno(), len(chunk))
            return self._file.write(chunk)

    def flush(self) -> None:
        """Let readers of `path` see all that was written."""
        with storing():
            self._file.flush()

    def seal(self) -> None:
        """Wait until the store has the bytes: slow, so it belongs before a transaction, not into it."""
        if not self._file.closed:
            with storing():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
        if not self._delivered:
            self._store.deliver(self.path, self.digest)
            self._delivered = True

    def keep(self) -> str:
        """Give the file its name, inside the transaction that names it, and return that name: its digest."""
        self.seal()
        self._store.adopt(self.path, self.digest)
        self.path.unlink(missing_ok=True)
        self._held.close()
        return self.digest

    def close(self) -> None:
        with suppress(OSError):  # a full disk refuses even the last bytes of a discarded file
            self._file.close()
        self.path.unlink(missing_ok=True)
        self._held.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class ArtifactStore:
    """A folder of immutable files, two levels deep (`ab/abcd…`).

    Attributes:
        root: the folder.
        incoming: where files lie that have no name yet.
        uploads: where files lie that arrive in pieces.
    """

    def __init__(self, root: Path, *, uploads: Path | None = None) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.uploads = uploads or root / "uploads"
        self.incoming.mkdir(parents=True, exist_ok=True)

    def place(self, digest: str) -> Path:
        """Where the file with this digest lives on this machine, whether or not it is there."""
        return self.root / digest[:2] / digest

    def path(self, digest: str) -> Path:
        """Where the file with this digest lies to be opened now.

        Raises NotFound if it is not stored, Unavailable where the whole folder is away (a disk that is not mounted).
        """
        place = self.place(digest)
        with storing():
            if place.is_file():
                return place
            self.incoming.stat()
        raise missing(digest)

    @contextmanager
    def held(self, digest: str) -> Iterator[Path]:
        """Like `path`, and the file stays there until the block is left, so that a child may open it hours later."""
        yield self.path(digest)

    def stage(self, *, limit: int | None = None) -> StagedFile:
        """Begin a new file of at most `limit` bytes; raises Unavailable where the disk refuses."""
        with storing():
            return StagedFile(self, limit=limit)

    def stage_open(self, descriptor: int) -> StagedFile:
        """Begin a new file with the whole content of an open one, wherever it has been read to; it stays open."""
        staged = self.stage()
        try:
            while chunk := os.pread(descriptor, _CHUNK, staged.size):
                staged.write(chunk)
            staged.seal()
        except BaseException:
            staged.close()
            raise
        return staged

    def stage_file(self, source: Path) -> StagedFile:
        with source.open("rb") as file:
            return self.stage_open(file.fileno())

    def deliver(self, path: Path, digest: str) -> None:
        """Bring a whole file to where it will be kept, before the transaction that names it; it has no name yet."""

    def adopt(self, path: Path, digest: str) -> None:
        """Give a delivered file its name, inside the transaction that names it; `path` stays, where links exist.

        A file already there is the same file, and stays: a confined child may open that very file, and no other that
        takes its name. It counts as fresh from now on, so that garbage collection does not take it for an orphan.
        """
        target = self.place(digest)
        with storing():
            target.parent.mkdir(exist_ok=True)
            try:
                os.link(path, target)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                os.replace(path, target)
            os.utime(target)

    def remove(self, digests: Iterable[str]) -> None:
        """Delete files that no record names any more; what is already gone is no error."""
        for digest in digests:
            with storing():
                self.place(digest).unlink(missing_ok=True)

    def clock(self) -> datetime:
        """The time of the file system: a host whose clock is wrong must not take a fresh file for old."""
        with storing():
            os.utime(self.incoming)  # needs no space, so that a full disk can be cleaned
            return datetime.fromtimestamp(self.incoming.stat().st_mtime, UTC)

    def listed(self, *, after: str = "", limit: int) -> list[StoredFile]:
        """At most `limit` stored files in the order of their digests, from the first one after `after`."""
        with storing():
            self.incoming.stat()  # a disk that is not mounted is no empty store
            return list_folder(self.root, after=after, limit=limit)

    def expire(self, digest: str, *, before: datetime) -> bool:
        """Delete the file unless it was touched since `before`; whether it was deleted."""
        place = self.place(digest)
        with storing():
            try:
                old = place.stat().st_mtime < before.timestamp()
                if old:
                    place.unlink()
            except FileNotFoundError:
                return False
        return old

    def clear_left_overs(self, *, older_than: timedelta) -> list[int]:
        """Remove what killed processes left without a name; returns the sizes in bytes."""
        with storing():
            return remove_older(self.incoming, before=self.clock() - older_than)

    def clear_abandoned(self) -> list[int]:
        """Remove what processes of this machine left that live no more, however young it is; returns the sizes."""
        with storing():
            return remove_older(self.incoming, before=self.clock() - _MOMENT, unlocked=True)

    def check(self) -> None:
        """Raise OSError unless a file can be written here now."""
        with tempfile.TemporaryFile(dir=self.incoming) as file:
            file.write(b"ok")

    def close(self) -> None:
        """Close all connections."""


def missing(digest: str) -> NotFound:
    return NotFound("artifact_missing", f"the stored file {digest[:12]}… is missing")


def require_room(descriptor: int, more: int) -> None:
    """Raise Unavailable where `more` bytes on the disk of this open file would take what is left free there."""
    disk = os.fstatvfs(descriptor)
    free = min(_MIN_FREE_BYTES, _MIN_FREE_SHARE * disk.f_blocks * disk.f_frsize)  # 0: the disk tells no size
    if free and disk.f_bavail * disk.f_frsize - more < free:
        message = f"the disk has no room for {more} more bytes; delete what is not needed any more"
        raise Unavailable("storage_unavailable", message)


@contextmanager
def storing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable("storage_unavailable", f"the file cannot be stored now: {reason.lower()}") from error
