"""An extension of griffe: examples in docstrings are code blocks, whether or not a section announces them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .+\n?(?:.+\n?)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts fences around what begins with `>>>`, up to the next empty line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each object once it is loaded."""
        if obj.docstring is not None and "Examples:" not in obj.docstring.value:
            value = obj.docstring.value
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", value)
