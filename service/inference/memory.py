"""Tells a lack of memory from other errors; it imports nothing, since a child asks before it has loaded anything."""

from __future__ import annotations

#: How ONNX Runtime, PyTorch and the C++ library say that there is no memory left, without a class of its own.
_MEMORY_WORDS = (
    "can't allocate memory",
    "Failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "start new thread",
    "CUDA out of memory",
)


def lacked_memory(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, says so: importers explain whatever a graph runs into."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_WORDS):
            return True
        error = error.__cause__
    return False
