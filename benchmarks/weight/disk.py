"""What files take on the disk while a request is answered: those of a folder, and deleted ones that are open still."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_LOOK_S = 0.05


class Risen:
    """The highest value while the block runs, above the first, as `by`."""

    def __init__(self, value: Callable[[], int]) -> None:
        self._value = value
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._first = value()
        self.by = 0

    def __enter__(self) -> Risen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        ends = False
        while not ends:
            ends = self._done.wait(_LOOK_S)
            self.by = max(self.by, self._value() - self._first)


def disk_bytes(folder: Path, pids: Iterable[int]) -> int:
    """What the files below a folder take, and files that were deleted there while one of these processes has them."""
    return sum(map(_bytes_of, folder.rglob("*"))) + sum(map(_bytes_of, _deleted(folder, pids)))


def _deleted(folder: Path, pids: Iterable[int]) -> Iterator[Path]:
    for pid in pids:
        with suppress(OSError):  # a process that has just ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    path = os.readlink(descriptor)
                    if path.startswith(f"{folder}/") and path.endswith(" (deleted)"):
                        yield descriptor


def _bytes_of(file: Path) -> int:
    with suppress(OSError):
        found = file.stat()
        return 512 * found.st_blocks if stat.S_ISREG(found.st_mode) else 0
    return 0
