"""Lists of records on pages: some rows, newest first, with the paths to the newest and to older ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Request

T = TypeVar("T")

#: Records on one page.
ROWS = 25


@dataclass(frozen=True)
class ListPage(Generic[T]):
    """Some rows of a list; the paths keep its filters, and are None where they would lead nowhere."""

    rows: tuple[T, ...]
    newer: str | None
    older: str | None


def list_page(request: Request, rows: Iterable[T], key: Callable[[T], str]) -> ListPage[T]:
    """The first `ROWS` of these; there must be one more among them where more follow.

    Args:
        key: of a row: the page after it begins with `?after=` this.
    """
    found = tuple(islice(rows, ROWS + 1))
    shown = found[:ROWS]
    newer = _path(request) if request.query_params.get("after") else None
    older = _path(request, key(shown[-1])) if len(found) > ROWS else None
    return ListPage(shown, newer, older)


def _path(request: Request, after: str | None = None) -> str:
    kept = {name: value for name, value in request.query_params.items() if value and name != "after"}
    query = urlencode(kept if after is None else {**kept, "after": after})
    return f"{request.url.path}?{query}" if query else request.url.path
