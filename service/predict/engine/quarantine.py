"""The quarantine: files that are not opened for a while, since their process has ended by a run of theirs.

Each is an empty file in a folder, which outlives the process and which all processes of its service read.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from service.registry.errors import OutOfService

#: How long a model is out of service; each request meanwhile is answered 503 at once.
SUSPENDED_S = 600.0


class Quarantine:
    """The files that are out of service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, digest: str) -> None:
        with suppress(OSError):  # a full disk must not keep the process from ending
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / digest).touch()

    def lift(self, digest: str) -> None:
        """Let a file be opened again before its time is over."""
        with suppress(OSError):
            (self._folder / digest).unlink(missing_ok=True)

    def suspended(self) -> dict[str, float]:
        left: dict[str, float] = {}
        with suppress(OSError):
            for file in self._folder.iterdir():
                left[file.name] = file.stat().st_mtime + SUSPENDED_S - time.time()
        return {digest: seconds for digest, seconds in left.items() if seconds > 0}

    def check(self, digest: str) -> None:
        """Raises OutOfService `model_suspended` while a file is."""
        try:
            left = os.stat(f"{self._folder}/{digest}").st_mtime + SUSPENDED_S - time.time()
        except OSError:
            return
        if left > 0:
            message = (
                "a run of this model has ended its process, by a crash, by too much memory or because it did not come "
                f"back when its time was up; the model is out of service for another {left / 60:.0f} minutes"
            )
            raise OutOfService("model_suspended", message)
