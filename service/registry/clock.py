"""The clock: the database's, for all times that are compared, so that a wrong clock of a host does no harm.

On SQLite all processes are on one machine and share its clock; on PostgreSQL the server is asked.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

_KNOWN = "database_now"


def database_now(session: Session) -> datetime:
    """The moment in UTC, as the database sees it, at which this was first asked within the session's transaction.

    A writer first asks when it is its turn: what it writes comes after what others have written.
    """
    if session.get_bind().dialect.name != "postgresql":
        return datetime.now(UTC)
    if _KNOWN not in session.info:
        # `now()` would be the start of the transaction, which may have waited for the lock.
        session.info[_KNOWN] = session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    moment: datetime = session.info[_KNOWN]
    return moment
