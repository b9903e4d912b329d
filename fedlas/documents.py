"""JSON: values of the library as objects, lists and numbers.

The notice: something that was found or done on the way, with its evidence, for the owner of a model or dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import BaseModel

from fedlas.contract.profiles import Notice

#: The values that JSON can hold.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
T = TypeVar("T")


def as_json(value: Any) -> Any:
    """Objects, lists and numbers for dataclasses, mappings, sequences and arrays.

    JSON has neither NaN nor infinity: both become null.

    >>> as_json({"mean": np.array([0.5, np.nan])})
    {'mean': [0.5, None]}
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: as_json(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
