"""Stored files, named by the SHA-256 of their content and never changed; it knows no records.

A file is written beside its final place, counted and hashed on the way, and moved there whole (`keep`): nothing
half-written can be found under a digest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from service.registry.errors import NotFound, TooLarge, Unavailable

_CHUNK = 1024 * 1024


class StagedFile:
    """A file on its way in: write to it, then `keep` it, or leave the `with` block and it is gone.

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
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of what was written so far."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append `chunk`; raises TooLarge as soon as the limit is passed, Unavailable where the disk refuses."""
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge("too_large", f"the upload is larger than the limit of {self._limit} bytes")
        self._hash.update(chunk)
        with storing():
            self._file.write(chunk)

    def seal(self) -> None:
        """Wait until the disk has the bytes: slow, so it belongs before a transaction, not into it."""
        if not self._file.closed:
            with storing():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def keep(self) -> str:
        """Move the file to its final place and return its digest; a file already there is the same file, and stays.

        Somebody may be reading it: a confined child may open that very file, and no other that takes its name.
        """
        self.seal()
        target = self._store.place(self.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.path, target)
        except FileExistsError:
            return self.digest
        except OSError:  # a file system without hard links
            os.replace(self.path, target)
            return self.digest
        self.path.unlink()
        return self.digest

    def discard(self) -> None:
        """Remove the file if it was not kept."""
        with suppress(OSError):  # a full disk refuses even the last bytes of a file that nobody wants
            self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class ArtifactStore:
    """A folder of immutable files, two levels deep (`ab/abcd…`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)

    def place(self, digest: str) -> Path:
        """Where the file with this digest lives, whether or not it is there."""
        return self.root / digest[:2] / digest

    def path(self, digest: str) -> Path:
        """Where the file with this digest lives; raises NotFound if it is not there."""
        place = self.place(digest)
        if not place.is_file():
            raise NotFound("artifact_missing", f"the stored file {digest[:12]}… is missing")
        return place

    def stage(self, *, limit: int | None = None) -> StagedFile:
        """Begin a new file of at most `limit` bytes; raises Unavailable where the disk refuses."""
        with storing():
            return StagedFile(self, limit=limit)

    def stage_file(self, source: Path) -> StagedFile:
        """Begin a new file with the content of `source`."""
        staged = self.stage()
        try:
            with source.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    staged.write(chunk)
            staged.seal()
        except BaseException:
            staged.discard()
            raise
        return staged

    def stage_bytes(self, content: bytes) -> StagedFile:
        """Begin a new file with this content."""
        staged = self.stage()
        staged.write(content)
        return staged

    def remove(self, digests: Iterable[str]) -> None:
        """Delete files that no record names any more; what is already gone is no error."""
        for digest in digests:
            self.place(digest).unlink(missing_ok=True)

    def check(self) -> None:
        """Raise OSError unless a file can be written here now."""
        with tempfile.TemporaryFile(dir=self.incoming) as file:
            file.write(b"ok")
        shutil.disk_usage(self.root)


@contextmanager
def storing() -> Iterator[None]:
    """Raise Unavailable where the disk refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable("storage_unavailable", f"the file cannot be stored now: {reason.lower()}") from error
