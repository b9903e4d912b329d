"""The served copies that one process may read: links in a folder of its own, the least recently asked for removed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from service.registry.artifacts import ArtifactStore

_MOST_FILES = 1000
_UNFINISHED = ".new"


class ServedFolder:
    """Gives files by their digest; used in threads, one at a time.

    What lies there when control is started again is what the process was given.

    Attributes:
        turn: held by the one that uses it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.turn = asyncio.Lock()
        self._given: OrderedDict[str, None] = OrderedDict()
        root.mkdir(parents=True, exist_ok=True)
        for file in sorted(root.iterdir(), key=lambda file: file.stat().st_atime):
            if file.suffix == _UNFINISHED:
                file.unlink()
            else:
                self._given[file.name] = None

    def give(self, artifacts: ArtifactStore, digest: str) -> None:
        """Put a file there, if it is not; raises NotFound, Unavailable."""
        place = self._root / digest
        if not place.exists():
            with artifacts.held(digest) as path:
                fresh = place.with_suffix(_UNFINISHED)
                fresh.unlink(missing_ok=True)
                try:
                    os.link(path, fresh)
                except OSError:  # another file system
                    shutil.copyfile(path, fresh)
                os.replace(fresh, place)
        self._given[digest] = None
        self._given.move_to_end(digest)
        while len(self._given) > _MOST_FILES:
            self.remove([next(iter(self._given))])

    def holds(self, digest: str) -> bool:
        """Whether a file was given."""
        return digest in self._given

    def digests(self) -> set[str]:
        """All that were given."""
        return set(self._given)

    def remove(self, digests: Iterable[str]) -> None:
        """Take these files away."""
        for digest in digests:
            self._given.pop(digest, None)
            with suppress(OSError):
                (self._root / digest).unlink(missing_ok=True)
