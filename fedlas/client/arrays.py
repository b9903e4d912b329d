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
    """An array of these values, where None among floats is NaN; without NumPy the list itself."""
    numpy = numpy_or_none()
    if numpy is None:
        return values
    holes = dtype != "float64" and None in values  # only a float has a word for what is missing
    return numpy.array(values, dtype=object if holes else dtype)
