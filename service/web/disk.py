"""The disk of the data folder: how much room it has, and whether that is little."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

#: Less than both is little: a job writes models and checkpoints, and an upload may have gigabytes.
_LITTLE_BYTES, _LITTLE_SHARE = 5_000_000_000, 0.1


@dataclass(frozen=True)
class Disk:
    """Its bytes; 0 of 0 where it cannot be looked at."""

    free: int = 0
    total: int = 0

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """Of the disk that a folder is on."""
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            return cls()
        return cls(usage.free, usage.total)

    @property
    def is_short(self) -> bool:
        """Whether somebody should make room.

        >>> Disk(10**9, 10**12).is_short, Disk(10**9, 10**9).is_short, Disk(20 * 10**9, 10**12).is_short
        (True, False, False)
        """
        return self.free < min(_LITTLE_BYTES, _LITTLE_SHARE * self.total)
