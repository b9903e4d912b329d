"""The memory of the machine or container, and the recognition of errors that mean a lack of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
#: How ONNX Runtime, PyTorch and the C++ library say that there is no memory left, without a class of its own.
_MEMORY_WORDS = (
    "can't allocate memory",
    "Failed to allocate memory",
    "is smaller than requested bytes",
    "bad allocation",
    "bad_alloc",
    "start new thread",
    "CUDA out of memory",
)


def memory_bytes() -> int:
    """How much memory processes here may have together: the machine's, or the container's limit."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such controller, or "max"
            found.append(int(Path(path).read_text()))
    return min(found)


def lacked_memory(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, says so: importers explain whatever a graph runs into."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_WORDS):
            return True
        error = error.__cause__
    return False
