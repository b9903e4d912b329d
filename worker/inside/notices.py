"""Notices of the library as the documents that records and events hold."""

from __future__ import annotations

from collections.abc import Iterable

from fedlas.documents import as_json
from fedlas.notice import Notice
from service.registry import documents


def notice_document(notice: Notice) -> documents.Notice:
    """The document of one notice."""
    return documents.Notice.model_validate(as_json(notice))


def notice_documents(notices: Iterable[Notice]) -> list[documents.Notice]:
    """The documents of several."""
    return [notice_document(notice) for notice in notices]
