"""Column types, ids and the bases of all tables; a column of type `Digest` keeps the file that it names."""

from __future__ import annotations

import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy import JSON, Column, DateTime, Dialect, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Json = dict[str, JsonValue]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case
_RANDOM_BITS = 80
_id_lock = threading.Lock()
_last_id = 0


def new_id(prefix: str) -> str:
    """Return a new id: what tells the kind, then 26 characters that sort by time (the ULID layout).

    Within a process ids grow strictly, even within one millisecond.

    >>> first, second = new_id("job"), new_id("job")
    >>> first < second, len(first)
    (True, 30)
    """
    global _last_id
    with _id_lock:
        number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        _last_id = max(number, _last_id + 1)
        return f"{prefix}_{''.join(_ALPHABET[_last_id >> shift & 31] for shift in range(125, -1, -5))}"


def now() -> datetime:
    """The present in UTC, by the clock of this host; times that are compared are the database's."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite drops the zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a naive time is a defect of the caller."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime reached the database")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Digest(TypeDecorator[str]):
    """The SHA-256 of a stored file, which stays for as long as any column of this type names it."""

    impl = String(64)
    cache_ok = True


#: In a column's `info`: whether it keeps the file that it names, where neither its type nor its name says so rightly.
KEEPS_FILE = "keeps_file"


class Base(DeclarativeBase):
    """Names of constraints are fixed, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), Json: JSON(), list[str]: JSON(), list[Json]: JSON()}  # noqa: RUF012


class Entity(Base):
    """A row with an id of its own."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Record(Entity):
    """A row with a status, and an error where it failed."""

    __abstract__ = True

    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[Json | None]


def digest_columns(metadata: MetaData = Base.metadata) -> tuple[Column[Any], ...]:
    """Every column that names a stored file: a file may go when none of them does.

    A column whose name says that it is a digest counts, too, so that one that was typed otherwise loses no files.
    """
    return tuple(
        column
        for table in metadata.sorted_tables
        for column in table.columns
        if column.info.get(KEEPS_FILE, isinstance(column.type, Digest) or column.name.endswith(("sha256", "digest")))
    )
