"""The folder in which a running service has its process ids and served copies: one service at a time uses it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
from collections.abc import Iterator
from pathlib import Path

_LOCK = "serve.lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; raises SystemExit where another service holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        if not _is_locked(lock.fileno()):
            raise SystemExit(f"another `fedlas serve` already uses {folder.parent}")
        yield


@contextlib.contextmanager
def numbered(parent: Path) -> Iterator[Path]:
    """Hold the first of `api-1`, `api-2`, ... that is free: several of them may share a data folder."""
    for number in itertools.count(1):
        folder = parent / f"api-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            if _is_locked(lock.fileno()):
                yield folder
                return


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
