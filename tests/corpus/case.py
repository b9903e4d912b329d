"""One hostile or broken file of the corpus: how to make it, where it is sent, and the answer that it must get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class BadFile:
    """A file that somebody may send.

    Attributes:
        name: what the file is, unique in the corpus.
        make: writes the file into an empty folder and returns its path.
        codes: the codes of which inspection must answer one; `"ready"` where the file is legitimate after all.
        route: where it is sent.
        options: query parameters that go with it.
    """

    name: str
    make: Callable[[Path], Path]
    codes: frozenset[str]
    route: Literal["models", "datasets"]
    options: Mapping[str, str] = field(default_factory=dict)
