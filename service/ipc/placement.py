"""Placement: which process answers a request, by its path and the key that it brings.

Predictions go to the serving processes: those of one key to the processes of its group, those of a model that once did
not come to an end to a process of its own. Everything else goes to control.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

CONTROL, ACCEPTOR, ALONE = "control", "acceptor", "alone-"
_SERVING, _GROUP = "serving-", "group-"
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
    """The places of models and keys.

    Args:
        groups: of keys; the processes are shared out among them.

    Attributes:
        alone: the processes of single models, by what these are called.
    """

    def __init__(self, groups: int = 1) -> None:
        self._groups = groups
        self.places = [f"{_GROUP}{number}" for number in range(groups)]
        self.alone: Mapping[str, str] = {}

    def place(self, path: bytes, authorization: bytes) -> str:
        """The place of a `POST` to this path, as it was received; that of any other request is control.

        >>> Placement().place(b"/v1/models/spam/predict", b""), Placement().place(b"/v1/jobs", b"")
        ('group-0', 'control')
        """
        found = _PREDICTION.fullmatch(unquote_to_bytes(path) if b"%" in path else path)
        if found is None:
            return CONTROL
        if self.alone:
            model = (found[1] or found[2]).decode(errors="replace")
            if (name := self.alone.get(model)) is not None:
                return name
        if self._groups == 1:
            return f"{_GROUP}0"
        key = authorization.partition(b" ")[2].strip()  # one key, however its scheme is written
        return f"{_GROUP}{zlib.crc32(key) % self._groups}"

    def places_of(self, called: str, version: str | None = None) -> list[str]:
        """All places of predictions of a model, for any key.

        >>> Placement(groups=2).places_of("spam")
        ['group-0', 'group-1']
        """
        return self.places if (name := self.alone.get(in_path(called, version))) is None else [name]

    def place_of(self, process: str) -> str:
        """The place that a process serves.

        >>> Placement(groups=2).place_of("serving-3"), Placement().place_of("alone-1")
        ('group-0', 'alone-1')
        """
        if process.startswith(_SERVING):
            return f"{_GROUP}{(int(process.removeprefix(_SERVING)) - 1) % self._groups}"
        return process
