"""A small disk of its own for the stored files, so that it can be filled without harming anybody else's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_MB = 256
_CHUNK = bytes(1024 * 1024)


class Disk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def is_full(self) -> bool:
        """True where the ballast lies on the disk."""
        return self._ballast.exists()

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("wb", buffering=0) as file:
            size = len(_CHUNK)
            while size:
                try:
                    file.write(_CHUNK[:size])
                except OSError:
                    size //= 2
            os.fsync(file.fileno())

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted(folder: Path, *, size_mb: int = SIZE_MB) -> Iterator[Disk | None]:
    """Mount a disk for the block; None where this user or machine may not mount."""
    folder.mkdir()
    options = f"size={size_mb}m,mode=755"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        # Lazily: a reader that is still about must not keep it mounted for ever.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
