"""Arrays where NumPy is importable, lists where it is not."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any


@cache
def numpy_or_none() -> ModuleType | None:
    """NumPy, loaded on first use; None where it is not installed."""
    try:
        return import_module("numpy")
    except ImportError:
        return None


def array_of(values: list[Any], dtype: str | None = None) -> Any:
    """An array of these values, NaN for None among numbers; without NumPy the list itself."""
    numpy = numpy_or_none()
    return values if numpy is None else numpy.array(values, dtype=dtype)
