"""The revision of the tables: which one a database has, and which one this code expects."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Engine, inspect, text

#: Alembic's.
_TABLE = "alembic_version"


def is_current(engine: Engine) -> bool:
    """Whether the newest revision is in place. Alembic, 11 MB in memory, is loaded only where it is not."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(_TABLE):
            return False
        return list(connection.scalars(text(f"SELECT version_num FROM {_TABLE}"))) == [newest()]


@cache
def newest() -> str:
    """The revision of the last migration, whose file's name begins with it."""
    return max(path.name for path in Path(__file__).with_name("migrations").glob("versions/[0-9]*.py")).partition("_")[
        0
    ]
