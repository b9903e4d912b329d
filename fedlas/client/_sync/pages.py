# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.
"""Lists: pages are asked for one after the other, as far as somebody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from fedlas.client._sync.transport import Params, Transport
from fedlas.client.records.page import Page

Item = TypeVar("Item")

_PER_PAGE = 100


class Pages(Generic[Item]):
    """All records of a list, newest first; iterating asks for page after page.

    >>> from fedlas.client import Client
    >>> def names() -> list[str]:
    ...     with Client() as client:
    ...         return [model.name for model in client.models.list(limit=500)]
    """

    def __init__(
        self,
        transport: Transport,
        kind: type[Page[Item]],
        path: str,
        params: Params,
        *,
        limit: int | None,
        cursor: Callable[[Item], str | int],
        prepare: Callable[[Item], Any] = lambda item: item,
    ) -> None:
        self._transport, self._kind, self._path, self._params = transport, kind, path, params
        self._limit, self._cursor, self._prepare = limit, cursor, prepare

    def __iter__(self) -> Iterator[Item]:
        left = self._limit
        after: dict[str, str | int] = {}
        more = left is None or left > 0
        while more:
            params = {**self._params, **after, "limit": _PER_PAGE if left is None else min(left, 1000)}
            page = self._transport.read(self._kind, "GET", self._path, params=params)
            for item in page.data:
                self._prepare(item)
                yield item
            left = None if left is None else left - len(page.data)
            more = page.has_more and bool(page.data) and (left is None or left > 0)
            if more:
                after = {"after": self._cursor(page.data[-1])}

    def all(self) -> list[Item]:
        """All of them at once."""
        collected: list[Item] = []
        for item in self:
            collected.append(item)
        return collected
