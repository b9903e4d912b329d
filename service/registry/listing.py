"""A listing of the folder of artifacts, page by page, and the removal of old files without a name."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store lists it: `size` in bytes, `changed` by the store's own clock."""

    digest: str
    size: int
    changed: datetime


def is_digest(name: str) -> bool:
    """Whether this can be the name of a stored file; other files are left alone."""
    return _DIGEST.fullmatch(name) is not None


def list_folder(root: Path, *, after: str, limit: int) -> list[StoredFile]:
    """At most `limit` files (`ab/abcd…`) in the order of their digests, from the first one after `after`."""
    found: list[StoredFile] = []
    for number in range(256):
        prefix = f"{number:02x}"
        names: list[str] = []
        if prefix >= after[:2] and len(found) < limit:
            with suppress(FileNotFoundError):
                names = [name for name in os.listdir(root / prefix) if name > after and is_digest(name)]
        for name in sorted(names):
            if len(found) == limit:
                break
            with suppress(FileNotFoundError):  # removed meanwhile
                stat = os.stat(root / prefix / name)
                found.append(StoredFile(name, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)))
    return found


def remove_older(folder: Path, *, before: datetime, unlocked: bool = False) -> list[int]:
    """Remove the files that nothing was written to since; returns their sizes in bytes.

    Args:
        unlocked: only those that no living process of this machine has locked.
    """
    sizes = []
    with os.scandir(folder) as entries:
        for entry in entries:  # FileNotFoundError: kept or discarded meanwhile
            with suppress(FileNotFoundError, BlockingIOError), open(entry, "rb") as file:
                if unlocked:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                found = os.fstat(file.fileno())
                if found.st_mtime < before.timestamp():
                    os.unlink(entry)
                    sizes.append(found.st_size)
    return sizes
