"""Stored records: what can be asked of models, datasets, calibrators and batches alike."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar, Unpack

from fedlas.client.events import until_final
from fedlas.client.orders import HasId, RecordFilter, path_part, query
from fedlas.client.records.parts import Page, Record
from fedlas.client.transport import Pages, Transport

R = TypeVar("R", bound=Record)


class Stored(Generic[R]):
    """Records of one kind: what `client.models`, `.datasets`, `.calibrators` and `.batches` have in common."""

    _path: ClassVar[str]
    _kind: type[R]

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, record: str | HasId) -> R:
        """The record as it stands now, by its id, or a model's published name."""
        return self._transport.read(self._kind, "GET", self._at(record))

    def wait(self, record: str | HasId, *, timeout: float | None = None) -> R:
        """The record once work on it has ended; raises Rejected, JobFailed, WaitTimeout."""
        return until_final(self._transport, self._kind, self._at(record), timeout=timeout)

    def list(self, *, limit: int | None = None, **which: Unpack[RecordFilter]) -> Pages[R]:
        """All records, newest first, at most `limit`; iterate over it."""
        pages = Page[self._kind]  # type: ignore[name-defined]  # a class that is only known here
        return Pages(self._transport, pages, self._path, query(**which), limit=limit, cursor=lambda item: item.id)

    def delete(self, record: str | HasId) -> None:
        """Delete a record, with what was kept of it; raises Conflict while it is published or needed."""
        self._transport.request("DELETE", self._at(record))

    def _at(self, record: str | HasId) -> str:
        return f"{self._path}/{path_part(record)}"
