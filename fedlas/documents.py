"""Documents: dataclasses written as JSON, with the names of their fields as keys, and read from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

#: What JSON can say.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
T = TypeVar("T")


def as_json(value: Any) -> Any:
    """Objects, lists and numbers for dataclasses, mappings, sequences and arrays.

    JSON has neither NaN nor infinity: both become null. `field(metadata={"key": …})` gives a field another key.

    >>> as_json({"mean": np.array([0.5, np.nan])})
    {'mean': [0.5, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {_key(part): as_json(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(document: type[T], content: Any) -> T:
    """The dataclass that `as_json` wrote; what is more in the content is passed over.

    null is NaN where a number or an array of numbers stands in the dataclass.

    Raises:
        ValueError: the content lacks a field, or has another kind of value in its place; the message names it.

    >>> from fedlas.metrics import Estimate
    >>> from_json(Estimate, {"value": 0.5, "low": None, "high": 1})
    Estimate(value=0.5, low=nan, high=1.0)
    """
    return cast(T, _read(document, content, document.__name__))


def _read(hint: Any, content: Any, at: str) -> Any:
    """A value of the type `hint`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _read_either(parts, content, at)
    if is_dataclass(hint) and isinstance(hint, type):
        return _read_fields(hint, _expected(Mapping, content, at), at)
    if hint is float:
        return math.nan if content is None else float(_expected((int, float), content, at))
    if origin is np.ndarray:
        values = [math.nan if value is None else value for value in _expected(Sequence, content, at)]
        return np.array(values, dtype=get_args(parts[1])[0])
    if origin in (tuple, Sequence, list):
        return tuple(_read(parts[0], value, f"{at}[{i}]") for i, value in enumerate(_expected(Sequence, content, at)))
    if origin in (Mapping, dict):
        return {key: _read(parts[1], value, f"{at}.{key}") for key, value in _expected(Mapping, content, at).items()}
    return content if hint is Any or not isinstance(hint, type) else _expected(hint, content, at)


def _read_either(parts: tuple[Any, ...], content: Any, at: str) -> Any:
    """One of several: None, or the dataclass whose fields are there."""
    if content is None and type(None) in parts:
        return None
    others = [part for part in parts if part is not type(None)]
    if len(others) > 1 and isinstance(content, Mapping):
        others = [one for one in others if is_dataclass(one) and {_key(part) for part in fields(one)} <= content.keys()]
    if not others:
        raise ValueError(f"{at} is none of {', '.join(getattr(part, '__name__', str(part)) for part in parts)}")
    return _read(others[0], content, at)


def _read_fields(document: type, content: Mapping[str, Any], at: str) -> Any:
    values, hints = {}, _hints(document)
    for part in (one for one in fields(document) if one.init):  # the others follow from these
        if (key := _key(part)) in content:
            values[part.name] = _read(hints[part.name], content[key], f"{at}.{key}")
        elif part.default is MISSING and part.default_factory is MISSING:
            raise ValueError(f"{at} has no {key!r}")
    return document(**values)


def _expected(kind: Any, content: Any, at: str) -> Any:
    if not isinstance(content, kind) or (isinstance(content, str) and kind is Sequence):
        raise ValueError(f"{at} must be {getattr(kind, '__name__', 'a number')}, found {type(content).__name__}")
    return content


def _key(part: Field[Any]) -> str:
    return str(part.metadata.get("key", part.name))


@cache
def _hints(document: type) -> dict[str, Any]:
    return get_type_hints(document, localns={"Json": Any})  # what JSON can say is read as it is
