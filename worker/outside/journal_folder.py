"""A child's journal folder, as its supervisor opens it: the child is not trusted and may write to it at any time.

Only plain files of this very folder are taken, and files are put into no other, whatever links the child has made.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

_CHUNK = 1024 * 1024


class OpenFile:
    """A plain file in a folder that hostile code may write to: neither a link nor a second name of another file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._folder = _opened(folder)
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


def give_file(folder: Path, source: Path, digest: str) -> str:
    """Copy a stored file into the folder, as a plain file under a name that nobody can guess; returns that name.

    Raises:
        ValueError: the stored file is not what its digest says.
    """
    name, found = f"given-{secrets.token_hex(8)}.pt", hashlib.sha256()
    opened = _opened(folder)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=opened)
        with os.fdopen(target, "wb") as copy, source.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
                copy.write(chunk)
    finally:
        os.close(opened)
    if found.hexdigest() != digest:
        raise ValueError(f"the stored file {digest[:12]}… is damaged")
    return name


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
