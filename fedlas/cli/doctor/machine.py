"""The machine: cores, memory that is free, and room on the disks that are written to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

Line = dict[str, str]

_GIBIBYTE = 1024**3
_LITTLE_MEMORY, _LITTLE_ROOM, _NO_ROOM = 2 * _GIBIBYTE, 5 * _GIBIBYTE, _GIBIBYTE // 4
_CGROUP = Path("/sys/fs/cgroup")


def check() -> Iterator[Line]:
    """Cores, memory and disks."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield {"name": "cores", "status": "ok", "found": f"{usable} of {os.cpu_count()} may be used"}
    yield _memory()
    data = Path(os.environ.get("FEDLAS_DATA_DIR") or "fedlas-data").absolute()
    yield _disk("data folder", data, "FEDLAS_DATA_DIR")
    yield _disk("temporary folder", Path(tempfile.gettempdir()), "TMPDIR")


def _memory() -> Line:
    free = _free_memory()
    if free is None:
        return {"name": "memory", "status": "skip", "found": "this system does not tell how much is free"}
    found = f"{free / _GIBIBYTE:.1f} GiB are free"
    if free < _LITTLE_MEMORY:
        return {
            "name": "memory", "status": "warn", "found": f"{found}; calibrations of small models take about 2 GiB",
            "remedy": "end other processes, or raise the container's limit",
        }  # fmt: skip
    return {"name": "memory", "status": "ok", "found": found}


def _free_memory() -> int | None:
    """What new processes may take: of the machine, and of the container where it is limited."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # no limit is "max"
        found.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    return max(0, min(found)) if found else None


def _disk(name: str, folder: Path, variable: str) -> Line:
    """The room where `folder` is, or would be made."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    room = shutil.disk_usage(place).free
    found = f"{folder}: {room / _GIBIBYTE:.1f} GiB are free"
    remedy = f"make room, or let {variable} name a folder on another disk"
    if not os.access(place, os.W_OK):
        return {
            "name": name, "status": "fail", "found": f"{place} cannot be written to by this user",
            "remedy": f"let {variable} name a folder that can",
        }  # fmt: skip
    if room < _LITTLE_ROOM:
        status = "fail" if room < _NO_ROOM else "warn"
        return {"name": name, "status": status, "found": found, "remedy": remedy}
    return {"name": name, "status": "ok", "found": found}
