"""Checkpoints: what a job saved to resume from, entries by name, each an artifact; deleted when the job ends."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.registry.clock import database_now
from service.registry.tables import Checkpoint


class Checkpoints:
    """Saved one by one, read all at once, dropped together."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def save(self, job_id: str, name: str, sha256: str) -> str | None:
        """Put the entry in place of an older one of this name; returns the older one's file."""
        moment = database_now(self.session)
        row = self.session.get(Checkpoint, (job_id, name))
        if row is None:
            self.session.add(Checkpoint(job_id=job_id, name=name, sha256=sha256, saved_at=moment))
            return None
        older, row.sha256, row.saved_at = row.sha256, sha256, moment
        return older

    def of(self, job_id: str) -> Mapping[str, str]:
        """The files of all entries, by name."""
        query = select(Checkpoint.name, Checkpoint.sha256).where(Checkpoint.job_id == job_id)
        return {row.name: row.sha256 for row in self.session.execute(query)}

    def drop(self, job_id: str) -> list[str]:
        """The job has ended; returns the files, which something else may name."""
        dropped = delete(Checkpoint).where(Checkpoint.job_id == job_id).returning(Checkpoint.sha256)
        return list(self.session.scalars(dropped))
