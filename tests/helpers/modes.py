"""Modes of files: those in a folder that are open to others than their owner."""

from __future__ import annotations

import stat
from pathlib import Path


def open_to_others(folder: Path) -> list[str]:
    """The files and folders in a folder, and it itself, on which group or others have a right, with their modes."""
    found = []
    for path in (folder, *folder.rglob("*")):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # removed meanwhile
            continue
        if not stat.S_ISLNK(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(f"{stat.filemode(mode)} {path}")
    return sorted(found)
