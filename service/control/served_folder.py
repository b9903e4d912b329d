"""The served copies that one process may read: links in a folder of its own, the least recently asked for removed."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from service.registry.artifacts import ArtifactStore

_MOST_FILES = 1000


class ServedFolder:
    """Gives files by their digest; used in threads, one at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._given: OrderedDict[str, None] = OrderedDict()
        root.mkdir(parents=True, exist_ok=True)
        for file in root.iterdir():
            self._given[file.name] = None

    def give(self, artifacts: ArtifactStore, digest: str) -> None:
        """Put a file there, if it is not; raises NotFound, Unavailable."""
        place = self._root / digest
        if not place.exists():
            with artifacts.held(digest) as path:
                fresh = place.with_suffix(".new")
                fresh.unlink(missing_ok=True)
                try:
                    os.link(path, fresh)
                except OSError:  # another file system
                    shutil.copyfile(path, fresh)
                os.replace(fresh, place)
        self._given[digest] = None
        self._given.move_to_end(digest)
        while len(self._given) > _MOST_FILES:
            gone, _ = self._given.popitem(last=False)
            with suppress(OSError):
                (self._root / gone).unlink(missing_ok=True)

    def holds(self, digest: str) -> bool:
        """Whether a file was given."""
        return digest in self._given

    def keep(self, digests: set[str]) -> None:
        """Remove all others."""
        for digest in [digest for digest in self._given if digest not in digests]:
            del self._given[digest]
            with suppress(OSError):
                (self._root / digest).unlink(missing_ok=True)
