"""The memory of an API process: the kernel's limit, its release after large requests, and errors that tell of a lack.

At the limit an allocation fails, and with it its request; the process goes on. What is freed afterwards stays with the
C library and ONNX Runtime's arena until `MemoryRelease` trims them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
#: How ONNX Runtime, PyTorch, CUDA and the C++ library say that there is no memory left, without a class of its own.
_MEMORY_WORDS = (
    "can't allocate memory",
    "Failed to allocate memory",
    "is smaller than requested bytes",
    "bad allocation",
    "bad_alloc",
    "start new thread",
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


def memory_bytes() -> int:
    """How much memory processes here may have together: the machine's, or the container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such controller, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def lacked_memory(error: BaseException | None) -> bool:
    """True where an error or its cause says so: importers explain whatever a graph runs into."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_WORDS):
            return True
        error = error.__cause__
    return False


def limit(most_bytes: int) -> None:
    """Lower the kernel's limit of this process' private memory; does nothing on systems that do not count it."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or most_bytes < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


def resident_bytes() -> int:
    """Bytes of memory that this process holds now; 0 where the system has no such figure."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


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
