"""A unit of work: the repositories over one transaction; nowhere else is anything committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.registry.artifacts import ArtifactStore
from service.registry.database import open_engine
from service.registry.errors import Conflict, NotFound, Unavailable
from service.registry.migrate import is_current, migrate
from service.registry.partial import PartialFiles
from service.registry.repositories import (
    Batches,
    Calibrators,
    Datasets,
    IdempotencyKeys,
    Jobs,
    Looks,
    Models,
    Names,
    Uploads,
    WorkQueue,
)
from service.registry.repositories.records import now
from service.registry.repositories.uploads import KEPT
from service.registry.settings import RegistrySettings


class UnitOfWork:
    """The repositories, all speaking within the same transaction."""

    def __init__(self, session: Session) -> None:
        self.datasets = Datasets(session)
        self.models = Models(session)
        self.jobs = Jobs(session)
        self.batches = Batches(session)
        self.calibrators = Calibrators(session)
        self.looks = Looks(session)
        self.uploads = Uploads(session)
        self.names = Names(session)
        self.work = WorkQueue(session)
        self.keys = IdempotencyKeys(session)


class Registry:
    """Records and files; one per process, safe to share between threads."""

    def __init__(self, engine: Engine, artifacts: ArtifactStore) -> None:
        self.artifacts = artifacts
        self.partial = PartialFiles(artifacts.root / "uploads")
        self._engine = engine
        self._writing = engine.execution_options(writes=True)

    @classmethod
    def open(cls, settings: RegistrySettings) -> Registry:
        """Open the registry that the settings name; tables are made by `migrate`."""
        return cls(open_engine(settings.resolved_database_url), ArtifactStore(settings.resolved_artifacts))

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """A consistent view; nothing is kept."""
        with Session(self._engine, expire_on_commit=False) as session, _reachable():
            yield UnitOfWork(session)

    @contextmanager
    def write(self) -> Iterator[UnitOfWork]:
        """Commit at the end of the block, or roll everything back if it raises."""
        with Session(self._writing, expire_on_commit=False) as session, _reachable(), session.begin():
            yield UnitOfWork(session)

    def discard(self, digests: Sequence[str]) -> None:
        """Delete files that no record names any more, after the transaction that took the last name away.

        Looked at anew inside a transaction of its own: an upload of the same content may have come in between.
        """
        with self.write() as unit:
            self.artifacts.remove(digest for digest in digests if not unit.datasets.is_named(digest))

    def forget_expired_uploads(self) -> list[str]:
        """Remove uploads that nobody has touched for a day, and what was left of those that became records."""
        forgotten = []
        for upload_id in self.partial.untouched_since(now() - KEPT):
            with suppress(Conflict, NotFound), self.partial.open(upload_id):  # somebody sends a piece just now
                with self.write() as unit:
                    unit.uploads.remove(upload_id)
                self.partial.remove(upload_id)
                forgotten.append(upload_id)
        return forgotten

    def migrate(self) -> None:
        """Bring the tables up to date; only the service does this."""
        migrate(self._engine)

    def is_current(self) -> bool:
        """Whether the tables are those this code expects."""
        return is_current(self._engine)

    def check(self) -> None:
        """Raise Unavailable unless the database answers now."""
        with self.read() as unit, _reachable():
            unit.work.session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable("database_unavailable", "the database cannot be reached; try again shortly") from error
