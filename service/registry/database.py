"""The database: opens the one that a URL names; SQLite and PostgreSQL alike have one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, inspect, make_url, select, text
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from fedlas.contract.base import objection_within
from service.registry.errors import InvalidRequest, NotFound, Unavailable

#: How long a writer waits for the lock.
BUSY_TIMEOUT_S = 30
#: An error that is logged shows no values: requests hold the secrets of webhooks.
_HIDE_PARAMETERS = True
#: A process that stops in the middle of a transaction blocks every other writer: the server ends it after this.
_IDLE_TIMEOUT_S = 3
_CONNECT_TIMEOUT_S = 3
#: A host that has gone is noticed by TCP keep-alive: after 5 s of silence and two more probes.
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2}
#: Alembic's table, and the folder of the migrations.
REVISIONS = "alembic_version"
SCRIPTS = Path(__file__).with_name("migrations")
_WRITERS_TURN = 2606028655  # an arbitrary number, locked by nothing else


def open_engine(url: str) -> Engine:
    """Return an engine for `url`; the folder of an SQLite file is made if it is missing."""
    parsed = make_url(url)
    engine = {"sqlite": _open_sqlite, "postgresql": _open_postgresql}[parsed.get_backend_name()](parsed)
    event.listen(engine, "before_cursor_execute", _keep_out_what_is_no_text)
    return engine


def _open_sqlite(url: URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=_HIDE_PARAMETERS)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _open_postgresql(url: URL) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=_HIDE_PARAMETERS,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=30,
        pool_timeout=BUSY_TIMEOUT_S,
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "tcp_user_timeout": 10_000, **_KEEPALIVE},
    )
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _keep_out_what_is_no_text(
    connection: Connection, cursor: Any, statement: str, values: Any, context: ExecutionContext | None, many: bool
) -> None:
    """Refuse on every database text that PostgreSQL refuses: nothing is found under it, and nothing is written.

    Columns of JSON hold escapes in place of such characters; what may stand in these, `contract` says.
    """
    if (reason := objection_within(values)) is None:
        return
    if statement.lstrip()[:6].upper() == "SELECT":
        raise NotFound("unknown_record", f"there is no such record: the id or name {reason}")
    raise InvalidRequest("invalid_text", f"a text of this request {reason}, and such text cannot be kept")


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # an acknowledged request survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails, or loses updates, when another writer came between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN DEFERRED")


def _begin_postgresql(connection: Connection) -> None:
    # One writer here, too: else a job that succeeded while its cancellation was being written stayed `cancelling`.
    if _writes(connection):
        connection.exec_driver_sql(
            f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S}s'; "
            f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'; "
            f"SELECT pg_advisory_xact_lock({_WRITERS_TURN})"
        )


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("writes", False))


@contextmanager
def reachable() -> Iterator[None]:
    """Raise Unavailable where the database cannot be reached, takes no writes, or was lost within a transaction."""
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        if isinstance(error, DBAPIError) and not (
            isinstance(error, OperationalError | InterfaceError | InternalError) or error.connection_invalidated
        ):
            raise
        raise Unavailable(
            "database_unavailable", "the database cannot be reached, or takes no writes; try again shortly"
        ) from error


def revision(engine: Engine) -> str | None:
    """The revision of the database; None where it has no tables."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(REVISIONS):
            return None
        return str(connection.scalar(text(f"SELECT version_num FROM {REVISIONS}")))


@cache
def newest() -> str:
    """The revision of the last migration, whose file's name begins with it."""
    return max(path.name for path in SCRIPTS.glob("versions/[0-9]*.py")).partition("_")[0]


def database_now(session: Session) -> datetime:
    """The moment in UTC, by the database's clock, at which this was first asked within the session's transaction.

    All times that are compared are the database's, so that a wrong clock of a host does no harm: on SQLite all
    processes are on one machine, and a PostgreSQL server is asked. A writer first asks when it is its turn: what it
    writes comes after what others have written.
    """
    if session.get_bind().dialect.name != "postgresql":
        return datetime.now(UTC)
    if database_now not in session.info:
        # `now()` would be the start of the transaction, which may have waited for the lock.
        session.info[database_now] = session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    moment: datetime = session.info[database_now]
    return moment
