"""A page of a list."""

from __future__ import annotations

from typing import Generic, TypeVar

from fedlas.client.records.base import Document

Item = TypeVar("Item")


class Page(Document, Generic[Item]):
    """Some records of a list, newest first."""

    data: list[Item]
    has_more: bool
