"""The artifact cache: copies of stored files on this machine's disk, evicted least recently used first.

Several processes share the folder. A process that uses a copy holds a shared lock on it, and only unlocked copies are
removed; the kernel takes the locks of a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: A copy that was used so recently may be about to be opened without a lock.
FRESH_S = 15 * 60.0
#: How long to wait for another process that fetches the same file: it may have been stopped.
_TIMEOUT_S = 30.0
_PAUSE_S = 0.05


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
        while not _lock(descriptor) and not done() and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def evict(root: Path, *, limit: int, now: float) -> int:
    """Remove the copies (`ab/abcd…`) used longest ago until at most `limit` bytes are left; returns the bytes removed.

    `now` is the file system's clock, in seconds. What is fresh or held stays, also when it is more than the limit.
    """
    copies = sorted(_copies(root))
    total = sum(size for _, size, _ in copies)
    removed = 0
    for used, size, path in copies:
        if total - removed <= limit or used > now - FRESH_S:
            break
        if _remove_unused(path, now - FRESH_S):
            removed += size
    return removed


def _copies(root: Path) -> Iterator[tuple[float, int, str]]:
    """Last use, bytes and path of each copy."""
    for number in range(256):
        try:
            with os.scandir(root / f"{number:02x}") as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    yield found.st_mtime, found.st_size, entry.path
        except FileNotFoundError:  # no such folder, or another process evicts the same file
            continue


def _remove_unused(path: str, before: float) -> bool:
    """Remove the copy unless it is locked or was used since."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if not _lock(descriptor) or os.fstat(descriptor).st_mtime > before:
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    finally:
        os.close(descriptor)
    return True


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
