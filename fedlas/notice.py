"""The notice: something that was found or done on the way, with its evidence, for the owner of a model or dataset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fedlas.contract.profiles import Notice
from fedlas.documents import Json

#: `info`: what was done; `warning`: what looks wrong; `error`: what is certainly wrong, and ends a job.
Severity = Literal["info", "warning", "error"]


#: An event has room for 16 KiB: five lists of names and some figures.
_MAX_NAMES = 200
_MAX_NAME_BYTES = 2_000
_MAX_SHOWN = 80


def first_names(names: Iterable[str]) -> list[str]:
    """First of these names, as many as evidence has room for.

    >>> first_names(["ant", "bee"]), len(first_names(["a" * 500] * 9))
    (['ant', 'bee'], 3)
    """
    kept: list[str] = []
    left = _MAX_NAME_BYTES
    for name in names:
        left -= len(name.encode("utf-8", "replace")) + 4
        if left < 0 or len(kept) == _MAX_NAMES:
            break
        kept.append(name)
    return kept


def shortened(name: str) -> str:
    """A name as a sentence has room for it.

    >>> shortened("mean area"), len(shortened("a" * 5000))
    ('mean area', 80)
    """
    return name if len(name) <= _MAX_SHOWN else name[: _MAX_SHOWN - 1] + "…"


def adjustment(code: str, message: str, **evidence: Json) -> Notice:
    """The notice of something that was done for the owner.

    >>> adjustment("index_dropped", "'Unnamed: 0' is a pandas index and no feature", column="Unnamed: 0").severity
    'info'
    """
    return Notice(code=code, message=message, evidence=evidence, severity="info")
