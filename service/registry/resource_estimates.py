"""Resource estimates: the memory that work takes at most, erring on the high side."""

from __future__ import annotations

from service.registry.settings import GIBIBYTE

#: PyTorch, ONNX Runtime and the rows of a batch. Datasets are mapped from their files and need no memory of their own.
_BASE_BYTES = GIBIBYTE
#: The upload, the network with gradients and momentum, the finishers of a race that may still be averaged, and what a
#: checkpoint copies.
_COPIES_OF_MODEL = 24


def memory_of_job(model_bytes: int) -> int:
    """Bytes of memory that calibrating a model of this size may take.

    >>> memory_of_job(45_000_000) // 10**9
    2
    """
    return _BASE_BYTES + _COPIES_OF_MODEL * model_bytes
