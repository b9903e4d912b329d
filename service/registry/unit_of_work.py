"""The unit of work: the repositories over one transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import TypeVar

from sqlalchemy.orm import Session

from service.registry.database import database_now
from service.registry.repositories.browser_sessions import BrowserSessions
from service.registry.repositories.deliveries import Deliveries
from service.registry.repositories.idempotency_keys import IdempotencyKeys
from service.registry.repositories.job_history import Checkpoints, EvaluationLedger, Events
from service.registry.repositories.jobs import Batches, Calibrators, Jobs
from service.registry.repositories.names import Names
from service.registry.repositories.pieces import Pieces
from service.registry.repositories.records import AfterCommit, Datasets, Models, Uploads
from service.registry.repositories.work import WorkQueue
from service.registry.repositories.work_overview import WorkOverview
from service.registry.repositories.work_statistics import WorkStatistics
from service.registry.repositories.workers import Workers

T = TypeVar("T")


def _repository(kind: Callable[[Session], T]) -> cached_property[T]:
    """A repository over the unit's session, made when it is first asked for."""
    return cached_property(lambda unit: kind(unit.session))


class UnitOfWork:
    """The repositories, all within the same transaction; `Registry.write` commits it, or rolls it back.

    Attributes:
        callbacks: called when the transaction is over, with whether it was committed.
    """

    work = _repository(WorkQueue)
    work_overview = _repository(WorkOverview)
    work_statistics = _repository(WorkStatistics)
    workers = _repository(Workers)
    pieces = _repository(Pieces)
    datasets = _repository(Datasets)
    models = _repository(Models)
    jobs = _repository(Jobs)
    batches = _repository(Batches)
    calibrators = _repository(Calibrators)
    events = _repository(Events)
    checkpoints = _repository(Checkpoints)
    ledger = _repository(EvaluationLedger)
    deliveries = _repository(Deliveries)
    uploads = _repository(Uploads)
    names = _repository(Names)
    keys = _repository(IdempotencyKeys)
    browser_sessions = _repository(BrowserSessions)

    def __init__(self, session: Session) -> None:
        self.session = session
        self.after_commit = AfterCommit.of(session)
        self.callbacks: list[Callable[[bool], None]] = []

    def requeue(self, record_id: str, reason: str) -> None:
        """Put a running job or batch, whose work was given up, back to queued."""
        if record_id.startswith("job_"):
            self.jobs.requeue(record_id, reason)
        elif record_id.startswith("bat_"):
            self.batches.requeue(record_id, reason)

    def now(self) -> datetime:
        """The present, as the database sees it."""
        return database_now(self.session)
