"""Excerpts of what a client sent, for error messages: short however large the value is."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from itertools import islice

_KINDS = {dict: "an object", type(None): "null"}

_MOST = 60
_MOST_NAMES = 20

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxstring, _short.maxlong = 2, 6, _MOST, 40


def shown(value: object) -> str:
    """At most about a line.

    >>> shown({"a": 1}), shown(None), shown("x"), shown(list(range(1000)))
    ('an object', 'null', "'x'", '[0, 1, 2, 3, 4, 5, ...]')
    """
    if type(value) is str and len(value) <= _MOST:  # names, in every request
        return repr(value)
    return _KINDS.get(type(value)) or _short.repr(value)


def listed(names: Iterable[str]) -> str:
    """The first twenty names.

    >>> listed(["a", "b"]), listed([]), listed(map(str, range(25)))[-7:]
    ("'a', 'b'", 'none', "'19', …")
    """
    first = [shown(name) for name in islice(names, _MOST_NAMES + 1)]
    return ", ".join(first[:_MOST_NAMES]) + (", …" if len(first) > _MOST_NAMES else "") or "none"
