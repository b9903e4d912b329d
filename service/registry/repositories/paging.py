"""Paged reads: a few rows at a time, since a page may end long before its limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

Row = TypeVar("Row")

#: Rows that are held at once. A row of an older version may have 4 MiB, and as much again while it is parsed.
_AT_ONCE = 4


def few_at_a_time(session: Session, query: Select[Row]) -> Iterator[Row]:
    """The rows of a query; a page that ends early leaves no cursor open, which PostgreSQL would keep for it."""
    with closing(session.scalars(query.execution_options(yield_per=_AT_ONCE))) as rows:
        yield from rows
