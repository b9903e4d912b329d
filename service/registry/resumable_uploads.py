"""Resumable uploads: files that arrive in pieces, over hours and restarts.

The offset is the length of the file: nothing else is right after a process was killed between two writes. A request
that appends holds the lock of the file, which the kernel takes back from a process that dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import OrderedDict
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from service.registry.artifacts import require_room, storing
from service.registry.errors import Conflict, NotFound

if TYPE_CHECKING:
    from hashlib import _Hash

_REMEMBERED_HASHES = 1000


class ResumableUpload(AbstractContextManager["ResumableUpload"]):
    """A file that is locked while it is open: append to it, take the piece back, or make it an artifact.

    Attributes:
        size: bytes in the file.
        path: where it lies; once it is whole the artifacts may adopt it from there.
    """

    def __init__(self, files: ResumableUploads, name: str, descriptor: int) -> None:
        self._files = files
        self.path = files.folder / name
        self._name = name
        self._descriptor = descriptor
        self.size = self._start = os.fstat(descriptor).st_size
        self._hash = files.hash_of_first(self.size, name)
        self._hash_at_start = None if self._hash is None else self._hash.copy()

    def write(self, chunk: bytes) -> None:
        """Append `chunk`; raises Unavailable where the disk refuses."""
        rest = memoryview(chunk)
        with storing():
            require_room(self._descriptor, len(rest))
            while rest:
                written = os.write(self._descriptor, rest)
                self.size += written
                if self._hash is not None:
                    self._hash.update(rest[:written])
                rest = rest[written:]

    def seal(self) -> None:
        """Wait until the disk has the bytes."""
        with storing():
            os.fsync(self._descriptor)

    def take_back(self) -> None:
        with storing():
            os.ftruncate(self._descriptor, self._start)
            os.fsync(self._descriptor)
        self.size, self._hash = self._start, self._hash_at_start

    def empty(self) -> None:
        """Free its bytes, unless an artifact is made of them; the file stays until no record names it."""
        if os.fstat(self._descriptor).st_nlink == 1:
            with storing():
                os.ftruncate(self._descriptor, 0)

    def digest(self) -> str:
        """Hexadecimal SHA-256: known already, or read from the file where another process received a part of it."""
        if self._hash is None:
            with storing(), open(self._descriptor, "rb", closefd=False) as file:
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256")
            self._hash = digest
        return self._hash.hexdigest()

    def close(self) -> None:
        if self._hash is not None:
            self._files.remember(self._name, self._hash, self.size)
        os.close(self._descriptor)

    def __exit__(self, *_: object) -> None:
        self.close()


class ResumableUploads:
    """A folder of files that are not complete yet, on the same file system as the artifacts that they become."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hashes: OrderedDict[str, tuple[_Hash, int]] = OrderedDict()

    def create(self, name: str) -> None:
        """Make an empty file that outlives a power cut."""
        with storing():
            os.close(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def state(self, name: str) -> tuple[int, datetime]:
        """Return how many bytes are safely here and since when; raises NotFound."""
        descriptor = self._opened(name, os.O_RDONLY)
        try:
            stat = os.fstat(descriptor)
            with storing():
                os.fsync(descriptor)  # a piece may have ended before it was synced
        finally:
            os.close(descriptor)
        return stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)

    def open(self, name: str) -> ResumableUpload:
        """Lock the file; raises NotFound, or Conflict while another request holds it."""
        descriptor = self._opened(name, os.O_RDWR | os.O_APPEND)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 0:  # deleted between opening and locking
                raise _unknown(name)
            return ResumableUpload(self, name, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            message = f"another request is sending to {name} or using it just now; ask again with HEAD in a moment"
            raise Conflict("upload_busy", message, passing=True) from None
        except BaseException:
            os.close(descriptor)
            raise

    def remove(self, name: str) -> None:
        """Delete the file; what is already gone is no error."""
        self._hashes.pop(name, None)
        with storing():
            (self.folder / name).unlink(missing_ok=True)

    def untouched_since(self, moment: datetime) -> list[str]:
        """Names of files to which nothing was appended since."""
        with storing(), os.scandir(self.folder) as entries:
            return sorted(entry.name for entry in entries if entry.stat().st_mtime < moment.timestamp())

    def hash_of_first(self, size: int, name: str) -> _Hash | None:
        """The hash of the file's first `size` bytes, if this process received them all."""
        if size == 0:
            return hashlib.sha256()
        known, known_size = self._hashes.pop(name, (None, 0))
        return known if known_size == size else None

    def remember(self, name: str, known: _Hash, size: int) -> None:
        """Keep a hash for the next piece, so that a whole file need not be read again."""
        self._hashes[name] = (known, size)
        while len(self._hashes) > _REMEMBERED_HASHES:
            self._hashes.popitem(last=False)

    def _opened(self, name: str, flags: int) -> int:
        with storing():
            try:
                return os.open(self.folder / name, flags)
            except FileNotFoundError:
                raise _unknown(name) from None


def _unknown(name: str) -> NotFound:
    return NotFound("unknown_upload", f"there is no upload {name!r}")
