"""The events of a job; ids grow by one, so that a reader can continue where it stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.registry.clock import database_now
from service.registry.documents import JsonObject
from service.registry.repositories.paging import few_at_a_time
from service.registry.tables import Event


class Events:
    """Appended in the transaction of the change that they report."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, job_id: str, type: str, data: JsonObject) -> Event:
        """Append one event; there is one writer at a time, so that no number is given twice."""
        event = Event(job_id=job_id, number=self.last(job_id) + 1, type=type, at=database_now(self.session), data=data)
        self.session.add(event)
        self.session.flush()
        return event

    def last(self, job_id: str) -> int:
        """The newest number of this job; 0 before the first."""
        return self.session.scalar(select(func.max(Event.number)).where(Event.job_id == job_id)) or 0

    def newest(self, job_ids: Iterable[str]) -> dict[str, int]:
        """The newest number of each of these jobs that has any."""
        query = select(Event.job_id, func.max(Event.number).label("newest")).where(Event.job_id.in_(list(job_ids)))
        return {row.job_id: row.newest for row in self.session.execute(query.group_by(Event.job_id))}

    def after(self, job_id: str, number: int, *, limit: int) -> Sequence[Event]:
        """The events that follow this one, oldest first."""
        query = select(Event).where(Event.job_id == job_id, Event.number > number)
        return self.session.scalars(query.order_by(Event.number).limit(limit)).all()

    def newest_before(self, job_id: str, number: int | None, *, limit: int) -> Iterator[Event]:
        """At most `limit` events, newest first, that came before this one; read as they are asked for."""
        query = select(Event).where(Event.job_id == job_id).order_by(Event.number.desc()).limit(limit)
        if number is not None:
            query = query.where(Event.number < number)
        yield from few_at_a_time(self.session, query)
