"""Placement: which process answers a request, by its path.

Predictions go to the serving processes, those of a model that once did not come to an end to a process of its own.
Everything else goes to control.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

CONTROL, ACCEPTOR, SERVING, ALONE = "control", "acceptor", "serving", "alone-"
#: A path that is not quite one of these goes to control, which answers that there is no such route.
_PREDICTION = re.compile(rb"/v1/models/([^/]+)/predict|/v2/models/([^/]+(?:/versions/[^/]+)?)/infer")


def in_path(name: str, version: str | None) -> str:
    """How a path calls a model.

    >>> in_path("spam", None), in_path("spam", "3")
    ('spam', 'spam/versions/3')
    """
    return name if version is None else f"{name}/versions/{version}"


def alone(number: int) -> str:
    """The name of the process of a single model."""
    return f"{ALONE}{number}"


class Placement:
    """The places of requests: control, the serving processes together, and each process of a single model.

    Attributes:
        alone: the processes of single models, by what these are called.
    """

    def __init__(self) -> None:
        self.alone: Mapping[str, str] = {}

    def place(self, path: bytes) -> str:
        """The place of a `POST` to this path, as it was received; that of any other request is control.

        >>> Placement().place(b"/v1/models/spam/predict"), Placement().place(b"/v1/jobs")
        ('serving', 'control')
        """
        found = _PREDICTION.fullmatch(unquote_to_bytes(path) if b"%" in path else path)
        if found is None:
            return CONTROL
        if not self.alone:
            return SERVING
        return self.alone.get((found[1] or found[2]).decode(errors="replace"), SERVING)


def place_of(process: str) -> str:
    """The place that a process serves.

    >>> place_of("serving-3"), place_of("alone-1")
    ('serving', 'alone-1')
    """
    return SERVING if process.startswith(SERVING) else process
