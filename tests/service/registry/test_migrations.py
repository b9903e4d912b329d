"""The tables of a new database, and databases that are not of this release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from service.registry.database import open_engine
from service.registry.migrate import alembic_config, newest
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers import backends


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings of a database without tables."""
    with backends.place(tmp_path / "data", migrated=False) as place:
        yield ServiceSettings(**place)


def test_an_unmigrated_database_is_not_current(settings: ServiceSettings) -> None:
    """A worker that starts first sees that the tables are not there yet."""
    fresh = Registry.open(settings)
    assert not fresh.is_current()
    fresh.close()


def test_the_last_file_is_the_newest_revision() -> None:
    """A process that finds it in place loads no migration."""
    assert newest() == ScriptDirectory.from_config(alembic_config()).get_current_head()


def test_a_database_of_another_line_is_left_as_it_is(settings: ServiceSettings) -> None:
    """One that a development version has made, or a later release, is refused in a sentence that says what to do."""
    registry = Registry.open(settings)
    registry.migrate()
    engine = open_engine(settings.resolved_database_url)
    with engine.execution_options(writes=True).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0012'"))
    with pytest.raises(SystemExit, match=r"cannot read the database \(.*'0012'\): .*use that one, or an empty"):
        registry.migrate()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0012"
    engine.dispose()
    registry.close()
