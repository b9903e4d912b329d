"""Extras: what to install where a part of FedLAS finds a library missing. `import fedlas` alone needs none.

A package that people import says first what it needs, and keeps its traceback to one sentence:

>>> require("arrays", "numpy", "scipy")
>>> require("library", "nothing_of_this_name")
Traceback (most recent call last):
    ...
fedlas.extras.MissingExtra: this needs nothing_of_this_name, which is not installed: pip install 'fedlas[library]'
"""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtra(ModuleNotFoundError):
    """A library is not installed; the message names the extra that brings it."""

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(
            f"this needs {module}, which is not installed: pip install 'fedlas[{extra}]'",
            name=module,
        )
        self.extra = extra


def require(extra: str, *modules: str) -> None:
    """Raise MissingExtra unless all modules, which `extra` brings, are installed; nothing is loaded."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtra(extra, module)
