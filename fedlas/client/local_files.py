"""Local files: read in blocks, and written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedlas.client.errors import FileProblem


class Source:
    """A file that is sent: its digest grows with what was read of it, wherever reading goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)
        self.size = os.fstat(self._file.fileno()).st_size
        if self.size == 0:
            self.close()
            raise FileProblem("empty_file", f"{path} is empty")
        self._digest = hashlib.sha256()
        self._digested = 0

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from there; raises FileProblem where they are gone."""
        try:
            self._file.seek(offset)
            block = self._file.read(count)
        except OSError as error:
            raise FileProblem("unreadable_file", f"{self.path} cannot be read: {error.strerror}") from None
        if len(block) < min(count, self.size - offset):
            raise FileProblem("file_changed", f"{self.path} became shorter while it was sent")
        if offset <= self._digested < offset + len(block):
            self._digest.update(block[self._digested - offset :])
            self._digested = offset + len(block)
        return block

    @property
    def sha256(self) -> str:
        """The digest of all that was read."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """No more is read."""
        self._file.close()


def _opened(path: Path) -> BinaryIO:
    if path.is_dir():
        message = f"{path} is a folder, needed is a file; a folder of images is sent as a zip of it"
        raise FileProblem("not_a_file", message)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise FileProblem("no_such_file", f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileProblem("unreadable_file", f"{path} cannot be read: {reason}") from None


class Target:
    """A file that is received, under a temporary name.

    Attributes:
        etag: of the content that the received part belongs to, where the server names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # what a link points to, and not the link, is written
        if self.path.exists() and not self.path.is_file():
            what = "a folder" if self.path.is_dir() else "a device or a pipe"
            raise FileProblem("not_a_file", f"{path} is {what}, needed is a file")
        path = self.path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._file = self._temporary.open("xb")
        self._digest = hashlib.sha256()
        self.size = 0
        self.etag: str | None = None

    def write(self, block: bytes) -> None:
        """Append; raises OSError."""
        self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """Forget all that has come."""
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.size = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        """The digest of what has come."""
        return self._digest.hexdigest()

    def keep(self) -> None:
        """Take the place of the file under its own name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


@contextmanager
def receiving(path: Path) -> Iterator[Target]:
    """The target for the block, kept where the block calls `keep`; raises FileProblem for what the disk refuses."""
    target: Target | None = None
    try:
        target = Target(path)
        yield target
    except OSError as error:
        if isinstance(error, TimeoutError | ConnectionError):
            raise
        raise FileProblem("unwritable_file", f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if target is not None:
            target.discard()


def write_whole(path: Path, content: bytes) -> Path:
    """Write a small file, whole or not at all."""
    with receiving(path) as target:
        target.write(content)
        target.keep()
    return path
