"""The memory of a process: what it holds, the kernel's limits, its release, and errors that tell of a lack.

At the limit an allocation fails, and with it its request; the process goes on. What is freed afterwards stays with the
C library and ONNX Runtime's arena until `MemoryRelease` trims them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from service.confinement.confinement import lower

#: Controllers of a line of `/proc/self/cgroup` → where its groups are, and the file of a limit: versions 2 and 1.
_CGROUPS = {
    "": [(Path("/sys/fs/cgroup"), "memory.max")],
    "memory": [(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")],
}
#: How Python, ONNX Runtime, PyTorch, CUDA and the C++ library say that there is no memory left.
_MEMORY_WORDS = (
    "MemoryError",
    "can't allocate memory",
    "Failed to allocate memory",
    "is smaller than requested bytes",
    "bad allocation",
    "bad_alloc",
    "start new thread",
    "Thread creation failed",  # of OpenMP
    "failed to map segment",  # of the loader, of a library that is loaded on demand
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA failure 2:",  # cudaErrorMemoryAllocation
    "STATUS_ALLOC_FAILED",  # of cuBLAS and cuDNN
)
#: Growth beyond which memory is released, and the shortest and longest interval between two checks: what steady work
#: allocates again and again is released ever less often.
_GROWTH_BYTES = 32 * 1024**2
_LOOK_S = 1.0
_MAX_LOOK_S = 4.0
#: Between two tries without growth: large requests may have been under way during the last one.
_MAX_PAUSE_S = 32.0
_PAGE = resource.getpagesize()


def cgroup_limits(own: Path = Path("/proc/self/cgroup")) -> Iterator[Path]:
    """Files of the memory limits of this process' control group and of all groups above it; some may not exist."""
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, group = line.split(":", 2)
        for root, name in _CGROUPS.get(controllers, ()):
            folder = root / group.strip("/")
            yield from (place / name for place in (folder, *folder.parents) if place.is_relative_to(root))


def memory_bytes() -> int:
    """How much memory processes here may have together: the machine's, or less by a limit of their control group."""
    limits = [_PAGE * os.sysconf("SC_PHYS_PAGES")]
    for path in cgroup_limits():
        with suppress(OSError, ValueError):  # no such group in this container, or "max"
            limits.append(int(path.read_text()))
    return min(limits)


def free_bytes() -> int:
    """How much memory new processes may have now: of the machine's what is free, or less by a limit of their group."""
    free = _figure(Path("/proc/meminfo"), "MemAvailable:")
    return memory_bytes() if free is None else min(memory_bytes(), 1024 * free)


def oom_kills(figures: Path = Path("/proc/vmstat")) -> int:
    """How many processes of this machine the kernel has killed for memory; 0 if it does not count them."""
    return _figure(figures, "oom_kill") or 0


def _figure(file: Path, name: str) -> int | None:
    try:
        match = re.search(rf"^{name} +(\d+)", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if match is None else int(match[1])


def lacked_memory(error: BaseException | None) -> bool:
    """True if an error or its cause says so: importers explain whatever a graph runs into."""
    while error is not None:
        if isinstance(error, MemoryError) or names_lack_of_memory(str(error)):
            return True
        error = error.__cause__
    return False


def names_lack_of_memory(text: str) -> bool:
    return any(words in text for words in _MEMORY_WORDS)


def limit(most_bytes: int) -> None:
    """Lower the kernel's limit of this process' private memory; does nothing on systems that do not count it."""
    with suppress(ValueError, OSError):
        lower(resource.RLIMIT_DATA, most_bytes)


def held_bytes() -> dict[str, int]:
    """Memory of this process: all that is mapped, what is resident, what is private; 0 if the system does not tell."""
    try:
        pages = list(map(int, Path("/proc/self/statm").read_text().split()))
    except (OSError, ValueError):
        pages = [0] * 7
    return {name: pages[at] * _PAGE for name, at in {"address_space": 0, "resident": 1, "data": 5}.items()}


def resident_bytes() -> int:
    return held_bytes()["resident"]


class MemoryRelease:
    """Checks once a second whether memory has grown, and then releases what is free.

    Args:
        release: called in a thread; makes libraries free what they keep.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._trim = _trim()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        level, look, pause, due = resident_bytes(), _LOOK_S, _LOOK_S, loop.time()
        while True:
            await asyncio.sleep(look)
            grown = resident_bytes() > level + _GROWTH_BYTES
            look = min(2 * look, _MAX_LOOK_S) if grown else _LOOK_S
            if not grown and loop.time() < due:
                continue
            pause = _LOOK_S if grown else min(2 * pause, _MAX_PAUSE_S)
            due = loop.time() + pause
            await loop.run_in_executor(None, self._release_free)
            level = resident_bytes()

    def _release_free(self) -> None:
        self._release()
        self._trim()


def _trim() -> Callable[[], object]:
    if sys.platform != "linux":
        return lambda: None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
    return (lambda: trim(0)) if trim is not None else lambda: None
