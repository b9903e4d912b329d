"""The registry: opens the database and the stored files, and runs transactions, each with all repositories."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TypeVar

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from service.registry import tables
from service.registry.artifacts import ArtifactStore
from service.registry.database import BUSY_TIMEOUT_S, database_now, open_engine, reachable
from service.registry.errors import Conflict, NotFound, Unavailable
from service.registry.migrate import is_current, migrate, rewrite
from service.registry.object_store import open_artifacts
from service.registry.repositories import Ended, Permit
from service.registry.repositories.jobs import (
    Batches,
    Calibrators,
    Checkpoints,
    Deliveries,
    EvaluationLedger,
    Events,
    Jobs,
)
from service.registry.repositories.keys import ApiKeys, BrowserSessions, IdempotencyKeys
from service.registry.repositories.names import Names
from service.registry.repositories.pieces import Pieces
from service.registry.repositories.records import KEPT, AfterCommit, Datasets, Models, ServedChanges, Uploads
from service.registry.repositories.work import WorkQueue
from service.registry.repositories.workers import Workers, WorkOverview
from service.registry.resumable_uploads import ResumableUploads
from service.registry.settings import RegistrySettings
from service.registry.tables import now

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
    served_changes = _repository(ServedChanges)
    api_keys = _repository(ApiKeys)
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
        return database_now(self.session)


_CLOSING_S = 2.0
#: A bucket takes some 10 ms for a file, and all other writers wait; a batch may leave ten thousand.
_DISCARDED_AT_ONCE = 25


class Registry:
    """Records and files; one per process, safe to share between threads.

    Attributes:
        notify: called after a commit that opened work, with its permits; it must neither raise nor take long.
        on_ended: called after a commit that ended jobs or batches; the same holds for it.
        on_served: called after a commit by which other models may answer; it may raise Unavailable.
    """

    def __init__(self, engine: Engine, artifacts: ArtifactStore) -> None:
        self.artifacts = artifacts
        self.notify: Callable[[Sequence[Permit]], None] = lambda permits: None
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda ended: None
        self.on_served: Callable[[], None] = lambda: None
        self.resumable_uploads = ResumableUploads(artifacts.uploads)
        self._engine = engine
        self._writing = engine.execution_options(writes=True)
        self._turn = Lock() if engine.dialect.name == "sqlite" else None

    @classmethod
    def open(cls, settings: RegistrySettings) -> Registry:
        """Open the registry that the settings name; tables are made by `migrate`."""
        return cls(open_engine(settings.resolved_database_url), open_artifacts(settings))

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """Open a transaction that is never committed."""
        with Session(self._engine, expire_on_commit=False) as session, reachable():
            yield UnitOfWork(session)

    @contextmanager
    def write(self) -> Iterator[UnitOfWork]:
        """Commit at the end of the block, or roll back if it raises; callbacks and permits follow the commit."""
        unit, committed = None, False
        try:
            with self._in_turn(), Session(self._writing, expire_on_commit=False) as session, session.begin():
                session.connection()  # begin now: a file kept before the first statement would be kept out of turn
                unit = UnitOfWork(session)
                yield unit
            committed = True
        finally:
            for callback in unit.callbacks if unit else ():
                callback(committed)
        if unit.after_commit.permits:
            self.notify(unit.after_commit.permits)
        if unit.after_commit.ended:
            self.on_ended(unit.after_commit.ended)
        try:
            if unit.after_commit.served:
                self.on_served()
        finally:
            with suppress(Unavailable):  # garbage collection finds what is left
                self.discard(unit.after_commit.unreferenced)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """SQLite lets one writer in and is not fair to the others: threads of this process queue before they try."""
        with reachable():
            if self._turn is None:
                yield
                return
            if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
                raise Unavailable("database_unavailable", "the database is busy; try again shortly")
            try:
                yield
            finally:
                self._turn.release()

    def discard(self, digests: Sequence[str]) -> None:
        """Delete files that no record names any more, after the transaction that took the last name away.

        They are checked again inside the transaction: an upload of the same content may have come in between.
        """
        for start in range(0, len(digests), _DISCARDED_AT_ONCE):
            some = digests[start : start + _DISCARDED_AT_ONCE]
            with self.write() as unit:
                named = unit.datasets.referenced(some)
                self.artifacts.remove(digest for digest in some if digest not in named)

    def forget_upload(self, upload_id: str) -> None:
        """Delete an upload, its bytes first: a full disk has no room to note it. Raises Conflict, NotFound."""
        with self.resumable_uploads.open(upload_id) as file:
            file.empty()
            with self.write() as unit:
                unit.uploads.remove(upload_id)
            self.resumable_uploads.remove(upload_id)

    def forget_expired_uploads(self) -> Iterator[str]:
        """Remove uploads without a new byte for a day, and what was left of those that became records; yields them."""
        for upload_id in self.resumable_uploads.untouched_since(now() - KEPT):
            with suppress(Conflict, NotFound):  # a piece is arriving just now
                self.forget_upload(upload_id)
                yield upload_id

    def cancel_due(self) -> list[str]:
        """Cancel jobs that nothing works on and that shall end, and return their ids."""
        with self.read() as unit:
            if not unit.work.to_cancel():
                return []
        with self.write() as unit:
            jobs = [job for job in unit.work.to_cancel() if unit.work.withdraw(job.id)]
            for job in jobs:
                unit.jobs.change_status(job, "cancelled")
            return [job.id for job in jobs]

    def migrate(self) -> None:
        """Bring the tables up to date; only the service does this. Raises Unavailable."""
        with reachable():
            if not is_current(self._engine):
                migrate(self._engine)

    def rewrite(self, copy: Path) -> int:
        """Bring what a pre-release stored to this release's words, as `migrate.rewrite` says. Raises Unavailable."""
        with reachable():
            return rewrite(self._engine, self.artifacts, copy)

    def is_current(self) -> bool:
        with reachable():
            return is_current(self._engine)

    def check(self) -> None:
        """Raise Unavailable unless the database answers now."""
        with self.read() as unit, reachable():
            unit.session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections, once the open transactions have ended or after two seconds."""
        deadline = time.monotonic() + _CLOSING_S
        pool = self._engine.pool
        while isinstance(pool, QueuePool) and pool.checkedout() and time.monotonic() < deadline:
            time.sleep(0.005)  # a connection returned to a disposed pool stays open
        self._engine.dispose()
        self.artifacts.close()


def find_model(unit: UnitOfWork, id_or_name: str) -> tables.Model:
    """The model with this id or published name; raises NotFound."""
    return unit.models.get(id_or_name if id_or_name.startswith("mdl_") else unit.names.resolve(id_or_name))


def priors_of(unit: UnitOfWork, id_or_name: str) -> dict[str, float] | None:
    """The class priors that a published name answers for; None for an id."""
    return None if id_or_name.startswith("mdl_") else unit.names.version(id_or_name).class_priors
