"""A clock that can be put forward and back under a running process, by libfaketime; timers run on undisturbed."""

from __future__ import annotations

import os
from pathlib import Path


class Clock:
    """A process' own time, and the minutes by which it is wrong."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self._library = library
        self.set(0)

    def set(self, minutes: int) -> None:
        """Be wrong by so many minutes from now on."""
        self.minutes = minutes
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{minutes * 60:+d}\n")
        os.replace(fresh, self._file)  # whoever reads it just now reads the old time or the new one

    @property
    def environment(self) -> dict[str, str]:
        """The environment that the process is started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # The file system has a clock of its own, as that of another host has: it is neither set nor read wrong.
            "FAKE_UTIME": "1",
            "NO_FAKE_STAT": "1",
        }


def find_library() -> Path | None:
    """libfaketime for programs with threads; None where it is not installed (Debian: `faketime`)."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
